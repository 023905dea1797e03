#include "tools/config.h"

#include <regex>
#include <sstream>

#include "tests/tools/cli.h"
#include "tools/config_walk.h"

namespace hotset {
namespace {

using testing::AllOf;
using testing::HasSubstr;

const std::filesystem::path kConfigs = HOTSET_SOURCE_DIR "/configs";
const std::string kNone = "no ConfigError";

template <class Work>
std::string message_of(const Work& work) {
  try {
    work();
  } catch (const ConfigError& error) {
    return error.what();
  }
  return kNone;
}

std::string load_error(const std::string& yaml) {
  return message_of([&] {
    Config config;
    load_config_text(config, yaml, "f.yaml");
  });
}

std::string set_error(const std::string& assignment) {
  return message_of([&] {
    Config config;
    set_config(config, assignment);
    check_config(config);
  });
}

TEST(ConfigTest, DefaultYamlEqualsTheBuiltInDefaults) {
  // From values that all differ, so that a key the file leaves out shows.
  Config config;
  walk_config(config, "", [](const std::string&, auto& value, const About&) {
    using T = std::remove_cvref_t<decltype(value)>;
    if constexpr (kIsOptional<T>) {
      value.emplace();
    } else if constexpr (std::is_same_v<T, bool>) {
      value = !value;
    } else {
      value += T{} + 'x';
    }
  });
  load_config(config, HOTSET_SOURCE_DIR "/configs/default.yaml");
  EXPECT_EQ(dump_config(config), dump_config(Config()));
}

TEST(ConfigTest, EveryFileInConfigsLoads) {
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(kConfigs)) {
    if (entry.path().extension() != ".yaml") continue;
    Config config;
    EXPECT_NO_THROW(load_config(config, entry.path())) << entry.path();
    EXPECT_NO_THROW(check_config(config)) << entry.path();
    // What a file sets is what an editor complains about where the schema does not know it.
    EXPECT_THAT(content(entry.path()), HasSubstr("$schema=hotset.schema.json")) << entry.path();
    ++files;
  }
  EXPECT_EQ(files, 3);
}

// If this fails: build/release/tools/hotset config --schema > configs/hotset.schema.json
TEST(ConfigTest, TheSchemaInTheTreeIsTheOneOfTheFieldList) {
  EXPECT_EQ(content(kConfigs / "hotset.schema.json"), config_schema());
}

TEST(ConfigTest, TheSchemaHasEveryKeyWithWhatIsSaidOfIt) {
  const json schema = json::parse(config_schema());
  EXPECT_EQ(schema["additionalProperties"], false);
  for (const std::string& key : config_keys()) {
    json node = schema;
    std::istringstream names(key);
    for (std::string name; std::getline(names, name, '.');) node = json(node["properties"][name]);
    EXPECT_GT(node.value("description", "").size(), 5u) << key;
    EXPECT_TRUE(node.contains("default") && node.contains("type")) << key;
  }
  const json& cpu = schema["properties"]["cpu"]["properties"];
  EXPECT_EQ(cpu["isa"]["enum"], (json{"auto", "portable", "avx2", "avx512", "avx512vnni", "amx"}));
  EXPECT_EQ(cpu["threads"]["maximum"], 1024);
  EXPECT_EQ(cpu["pin"]["type"], "boolean");
  const json& sampler = schema["properties"]["sampler"]["properties"];
  EXPECT_EQ(sampler["top_p"]["type"], (json{"number", "null"}));
  EXPECT_EQ(sampler["top_p"]["default"], nullptr);
}

// The schema and Size::parse must agree: an editor would otherwise mark what is right.
TEST(ConfigTest, TheSchemasPatternOfASizeIsWhatLoads) {
  const json ram = json::parse(config_schema())["properties"]["ram"];
  const std::regex pattern(ram["anyOf"][1]["pattern"].get<std::string>());
  for (const char* text : {"16GiB", "16GB", "50%", "1234", "1.5 tib", "7b", "3 %", "lots", "-1",
                           "5 KiBs", "%", "1e3", "1,5GB", ""}) {
    Config config;
    config.ram = text;
    EXPECT_EQ(std::regex_match(text, pattern), message_of([&] { check_config(config); }) == kNone)
        << text;
  }
}

TEST(ConfigTest, ADumpLoadsToTheSameConfiguration) {
  // As JSON as well, which is YAML.
  Config config;
  set_config(config, "sampler.temperature=0.7");
  set_config(config, "chat.system=You are: \"brief\" # not");
  set_config(config, "cpu.threads=3");
  Config loaded;
  load_config_text(loaded, dump_config(config), "dump");
  EXPECT_EQ(dump_config(loaded), dump_config(config));
  EXPECT_EQ(loaded.chat.system, config.chat.system);
  Config from_json;
  load_config_text(from_json, dump_config_json(config), "json");
  EXPECT_EQ(dump_config(from_json), dump_config(config));
}

TEST(ConfigTest, UnknownKeyIsNamedWithFileLineAndNearestKey) {
  EXPECT_THAT(load_error("ctx: 5\ncpu:\n  thraeds: 4\n"),
              AllOf(HasSubstr("f.yaml:3"), HasSubstr("cpu.thraeds"),
                    HasSubstr("nearest known one is cpu.threads")));
  EXPECT_THAT(set_error("sampler.tempreature=1"), HasSubstr("sampler.temperature"));
  EXPECT_THAT(set_error("cpu=1"), HasSubstr("unknown key"));
}

TEST(ConfigTest, WrongTypeIsNamedWithWhatWasFoundAndExpected) {
  EXPECT_THAT(load_error("cpu:\n  threads: many\n"),
              AllOf(HasSubstr("f.yaml:2: cpu.threads"), HasSubstr("\"many\""),
                    HasSubstr("a whole number")));
  EXPECT_THAT(load_error("sampler:\n  top_p: [1]\n"),
              AllOf(HasSubstr("a list"), HasSubstr("a number")));
  EXPECT_THAT(load_error("ram: ~\n"), AllOf(HasSubstr("nothing"), HasSubstr("text")));
  EXPECT_THAT(load_error("cpu: 4\n"), HasSubstr("expected a section"));
  EXPECT_THAT(load_error("ctx: 1.5\n"), HasSubstr("a whole number"));
  EXPECT_THAT(load_error("cpu:\n  pin: maybe\n"), HasSubstr("true or false"));
  EXPECT_THAT(load_error("- 1\n"), HasSubstr("expected keys and values"));
  for (const char* key : {"[a]: 1\n", "{a: b}: 1\n", "~: 1\n"}) {
    EXPECT_THAT(load_error(std::string("ctx: 5\n") + key),
                AllOf(HasSubstr("f.yaml:2: found a key"), HasSubstr("expected a name")))
        << key;
  }
}

TEST(ConfigTest, AKeyThatIsThereTwiceIsRefused) {
  EXPECT_THAT(load_error("ctx: 5\nctx: 6\n"), AllOf(HasSubstr("f.yaml:2"), HasSubstr("twice")));
}

TEST(ConfigTest, ValuesOutOfRangeAreRefused) {
  EXPECT_THAT(set_error("cpu.isa=sse2"), AllOf(HasSubstr("sse2"), HasSubstr("avx512vnni")));
  EXPECT_THAT(set_error("kv.type=f64"), HasSubstr("f16, f32"));
  EXPECT_THAT(set_error("ram=lots"), HasSubstr("16GiB"));
  EXPECT_THAT(set_error("prompt.chunk=0"), HasSubstr("expected 1 to"));
  EXPECT_THAT(set_error("prompt.ring=-1"), HasSubstr("expected 0 to"));
  EXPECT_THAT(set_error("cache.policy=clock"), HasSubstr("score, lru, lfu, static"));
  for (const char* wrong : {"nan", "2000000", "-4", "auto"}) {
    EXPECT_THAT(set_error(std::string("cache.half_life=") + wrong), HasSubstr("expected"));
  }
  EXPECT_THAT(set_error("sampler.top_p=1.5"), HasSubstr("0 to 1"));
  EXPECT_THAT(set_error("sampler.temperature=-1"), HasSubstr("expected 0"));
  EXPECT_THAT(set_error("cpu.threads"), HasSubstr("key=value"));
}

TEST(ConfigTest, AnEmptyValueUnsetsAnOptionalSetting) {
  Config config;
  set_config(config, "sampler.seed=5");
  EXPECT_EQ(config.sampler.seed, 5);
  set_config(config, "sampler.seed=");
  EXPECT_FALSE(config.sampler.seed);
}

TEST(ConfigTest, TheEnvironmentChangesNothing) {
  setenv("HOTSET_CTX", "77", 1);
  setenv("CTX", "77", 1);
  Config config;
  load_config_text(config, "", "empty");
  EXPECT_EQ(config.ctx, 0);
}

TEST(ConfigTest, AFileThatIsNotThereOrIsNoYamlIsNamed) {
  Config config;
  EXPECT_THAT(message_of([&] { load_config(config, "no/such.yaml"); }),
              HasSubstr("no/such.yaml: cannot be read"));
  EXPECT_THAT(load_error("a: [1\n"), HasSubstr("f.yaml:"));
}

}  // namespace
}  // namespace hotset
