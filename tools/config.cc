#include "tools/config.h"

#include <fmt/format.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <fstream>
#include <numeric>
#include <set>
#include <sstream>

#include "tools/size.h"

namespace hotset {
namespace {

struct IgnoreField {
  template <class T>
  void operator()(const char*, T&) const {}
};
template <class T>
concept Section = requires(T& section) {
  T::visit(section, IgnoreField{});
};

// Calls leaf(key, value) for every setting, with its full key ("cpu.threads").
template <class Self, class Leaf>
void walk(Self& section, const std::string& prefix, const Leaf& leaf) {
  std::remove_const_t<Self>::visit(section, [&](const char* name, auto& value) {
    const std::string key = prefix + name;
    if constexpr (Section<std::remove_cvref_t<decltype(value)>>) {
      walk(value, key + ".", leaf);
    } else {
      leaf(key, value);
    }
  });
}

template <class T>
constexpr bool kIsOptional = false;
template <class T>
constexpr bool kIsOptional<std::optional<T>> = true;

template <class T>
constexpr const char* type_name() {
  if constexpr (std::is_same_v<T, bool>) return "true or false";
  if constexpr (std::is_integral_v<T>) return "a whole number";
  if constexpr (std::is_floating_point_v<T>) return "a number";
  return "text";
}

// `where` begins the message: "FILE:LINE: KEY" or "--set KEY".
template <class T>
void assign(T& value, const YAML::Node& node, const std::string& where) {
  if constexpr (kIsOptional<T>) {
    if (node.IsNull()) {
      value.reset();
    } else {
      assign(value.emplace(), node, where);
    }
  } else {
    try {
      // YAML reads "~" and "" as null, which would come out as the text "null".
      if (node.IsScalar()) {
        value = node.as<T>();
        return;
      }
    } catch (const YAML::Exception&) {
      // Reported below, as any other value that does not fit.
    }
    const std::string found = node.IsScalar() ? "\"" + node.Scalar() + "\""
                              : node.IsNull() ? "nothing"
                              : node.IsMap()  ? "a section"
                                              : "a list";
    throw ConfigError(fmt::format("{}: found {}, expected {}", where, found, type_name<T>()));
  }
}

size_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 0; i < a.size(); ++i) {
    size_t diagonal = std::exchange(row[0], i + 1);
    for (size_t j = 0; j < b.size(); ++j) {
      const size_t replaced = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({replaced, diagonal + 1, row[j] + 1});
    }
  }
  return row.back();
}

[[noreturn]] void unknown_key(const std::string& where, const std::string& key) {
  const std::vector<std::string> known = config_keys();
  const std::string& nearest = *std::min_element(
      known.begin(), known.end(), [&](const std::string& a, const std::string& b) {
        return edit_distance(key, a) < edit_distance(key, b);
      });
  throw ConfigError(fmt::format("{}: unknown key; the nearest known one is {}", where, nearest));
}

void set_leaf(Config& config, const std::string& key, const YAML::Node& node,
              const std::string& where) {
  bool found = false;
  walk(config, "", [&](const std::string& known, auto& value) {
    if (known != key) return;
    found = true;
    assign(value, node, where);
  });
  if (!found) unknown_key(where, key);
}

bool is_section(const std::string& key) {
  const std::vector<std::string> known = config_keys();
  return std::any_of(known.begin(), known.end(),
                     [&](const std::string& k) { return k.starts_with(key + "."); });
}

void load_section(Config& config, const YAML::Node& map, const std::string& prefix,
                  const std::string& name) {
  std::set<std::string> seen;
  for (const auto& entry : map) {
    const std::string key = prefix + entry.first.as<std::string>();
    const std::string where = fmt::format("{}:{}: {}", name, entry.first.Mark().line + 1, key);
    if (!seen.insert(key).second) {
      throw ConfigError(where + ": is there twice, expected once");
    }
    if (!is_section(key)) {
      set_leaf(config, key, entry.second, where);
    } else if (entry.second.IsMap()) {
      load_section(config, entry.second, key + ".", name);
    } else {
      throw ConfigError(where + ": expected a section of keys");
    }
  }
}

YAML::Node parse_yaml(const std::string& text, const std::string& name) {
  try {
    return YAML::Load(text);
  } catch (const YAML::Exception& error) {
    throw ConfigError(fmt::format("{}:{}: {}", name, error.mark.line + 1, error.msg));
  }
}

}  // namespace

void load_config(Config& config, const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  // An empty file sets failbit on `text`, a folder sets badbit on `file`.
  if (!file || (file.peek() != EOF && !(text << file.rdbuf())) || file.bad()) {
    throw ConfigError(path + ": cannot be read, expected a YAML file");
  }
  load_config_text(config, text.str(), path);
}

void load_config_text(Config& config, const std::string& yaml, const std::string& name) {
  const YAML::Node root = parse_yaml(yaml, name);
  if (root.IsNull()) return;
  if (!root.IsMap()) throw ConfigError(name + ":1: expected keys and values, as in key: value");
  load_section(config, root, "", name);
}

void set_config(Config& config, const std::string& assignment) {
  const size_t equals = assignment.find('=');
  if (equals == std::string::npos) {
    throw ConfigError("--set " + assignment + ": expected key=value");
  }
  const std::string key = assignment.substr(0, equals), value = assignment.substr(equals + 1);
  const std::string where = "--set " + key;
  if (is_section(key)) unknown_key(where, key);
  // Taken as it is: a system message may well look like YAML.
  const bool is_unset = value.empty() || value == "~";
  set_leaf(config, key, is_unset ? YAML::Node() : YAML::Node(value), where);
}

void check_config(const Config& config) {
  const auto one_of = [](const char* key, const std::string& value,
                         const std::vector<std::string>& known) {
    if (std::find(known.begin(), known.end(), value) != known.end()) return;
    throw ConfigError(
        fmt::format("{}: found \"{}\", expected one of {}", key, value, fmt::join(known, ", ")));
  };
  const auto in_range = [](const char* key, const auto& value, auto low, auto high) {
    if (!value || (*value >= low && *value <= high)) return;
    throw ConfigError(fmt::format("{}: found {}, expected {} to {}", key, *value, low, high));
  };
  one_of("cpu.isa", config.cpu.isa, {"auto", "portable", "avx2", "avx512", "avx512vnni"});
  one_of("kv.type", config.kv.type, {"f16", "f32"});
  one_of("pack.sidecar", config.pack.sidecar, {"auto", "off"});
  in_range("cpu.threads", &config.cpu.threads, 0, 1024);
  in_range("ctx", &config.ctx, int64_t{0}, int64_t{INT32_MAX});
  in_range("prompt.chunk", &config.prompt.chunk, 1, 1 << 16);
  in_range("sampler.temperature", config.sampler.temperature, 0.0, 1000.0);
  in_range("sampler.top_p", config.sampler.top_p, 0.0, 1.0);
  in_range("sampler.min_p", config.sampler.min_p, 0.0, 1.0);
  in_range("sampler.top_k", config.sampler.top_k, int64_t{0}, int64_t{INT32_MAX});
  in_range("sampler.repeat_penalty", config.sampler.repeat_penalty, 0.01, 1000.0);
  if (!Size::parse(config.ram)) {
    throw ConfigError(
        fmt::format("ram: found \"{}\", expected a size such as 16GiB, 16GB or 50%", config.ram));
  }
}

std::string dump_config(const Config& config) {
  YAML::Node root;
  walk(config, "", [&](const std::string& key, const auto& value) {
    YAML::Node leaf;
    if constexpr (kIsOptional<std::remove_cvref_t<decltype(value)>>) {
      if (value) leaf = *value;
    } else {
      leaf = value;
    }
    const size_t dot = key.find('.');
    if (dot == std::string::npos) {
      root[key] = leaf;
    } else {
      root[key.substr(0, dot)][key.substr(dot + 1)] = leaf;
    }
  });
  return YAML::Dump(root) + "\n";
}

std::vector<std::string> config_keys() {
  std::vector<std::string> keys;
  const Config defaults;
  walk(defaults, "", [&](const std::string& key, const auto&) { keys.push_back(key); });
  return keys;
}

}  // namespace hotset
