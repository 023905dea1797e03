// The bounded JSON parse.
#include "runtime/weights/json.h"

#include <gmock/gmock.h>

#include "kernels/check.h"

namespace hotset {
namespace {

using testing::AllOf;
using testing::HasSubstr;

std::string refusal(const std::string& text) {
  try {
    parse_json(text, "x.json");
    return "";
  } catch (const Error& error) {
    return error.what();
  }
}

TEST(JsonTest, ValuesSurviveTheParse) {
  const std::string text = R"({"a":[1,-2,2.5,"x",null,true,{"b":{}}],"c":{"d":[[]]},"e":"é"})";
  EXPECT_EQ(parse_json(text, "x.json"), nlohmann::json::parse(text));
}

TEST(JsonTest, AKeyThatOccursTwiceInOneObjectIsNamed) {
  EXPECT_THAT(refusal(R"({"a": {"k": 1, "j": 2, "k": 3}})"),
              AllOf(HasSubstr("x.json"), HasSubstr("\"k\"")));
  EXPECT_EQ(refusal(R"({"a": {"k": 1}, "b": {"k": 3}})"), "");
}

TEST(JsonTest, DepthIsBounded) {
  const auto nested = [](size_t depth) {
    return std::string(depth, '[') + std::string(depth, ']');
  };
  EXPECT_EQ(refusal(nested(kMaxJsonDepth)), "");
  EXPECT_THAT(refusal(nested(kMaxJsonDepth + 1)), HasSubstr("nested deeper"));
  EXPECT_THAT(refusal(std::string(1'000'000, '[')), HasSubstr("nested deeper"));
}

TEST(JsonTest, BrokenTextIsRefusedWithTheFilesName) {
  for (const std::string text :
       {"", "{", "{\"a\":}", "[1,]", "\"\xff\"", "[1] 2", "1e999", "nan"}) {
    EXPECT_THAT(refusal(text), HasSubstr("x.json")) << text;
  }
}

TEST(JsonTest, AccessorsNameTheKeyAndWhatWasFound) {
  const nlohmann::json value = {
      {"n", 3}, {"s", "text"}, {"big", UINT64_MAX}, {"f", 1.5}, {"z", nullptr}};
  const JsonObject object(value, "x.json", "outer.");
  EXPECT_EQ(object.integer("n"), 3);
  EXPECT_EQ(object.number("n"), 3.0);
  EXPECT_EQ(object.find_integer("z"), std::nullopt);
  const auto message = [&](const char* key) -> std::string {
    try {
      object.integer(key);
      return "";
    } catch (const Error& error) {
      return error.what();
    }
  };
  EXPECT_THAT(message("s"), AllOf(HasSubstr("x.json: outer.s"), HasSubstr("string")));
  EXPECT_THAT(message("f"), HasSubstr("outer.f"));
  EXPECT_THAT(message("big"), HasSubstr("out of range"));
  EXPECT_THAT(message("z"), HasSubstr("missing"));
}

}  // namespace
}  // namespace hotset
