// The configuration as JSON, and the JSON schema of a configuration file, both from the same list
// that loads it: editors that speak YAML complete keys and values with the schema.
#include <cmath>
#include <nlohmann/json.hpp>
#include <sstream>

#include "tools/config_walk.h"

namespace hotset {
namespace {

using Json = nlohmann::ordered_json;

// What Size::parse takes.
constexpr const char* kSizePattern =
    "^[0-9]+([.][0-9]+)? *([kKmMgGtT]?[bB]|[kKmMgGtT][iI][bB]|%)?$";

std::vector<std::string> split(const char* names) {
  std::vector<std::string> out;
  std::istringstream in(names);
  for (std::string name; std::getline(in, name, '|');) out.push_back(name);
  return out;
}

template <class T>
Json json_of(const T& value) {
  if constexpr (kIsOptional<T>) {
    return value ? Json(*value) : Json(nullptr);
  } else if constexpr (Section<T>) {
    Json out = Json::object();
    T::visit(value, [&](const char* name, const auto& field, const About&) {
      out[name] = json_of(field);
    });
    return out;
  } else {
    return value;
  }
}

template <class T>
const char* json_type() {
  if (std::is_same_v<T, bool>) return "boolean";
  if (std::is_integral_v<T>) return "integer";
  return std::is_floating_point_v<T> ? "number" : "string";
}

template <class T>
Json schema_of(const T& value, const About& about) {
  Json out;
  if constexpr (kIsOptional<T>) {
    out = schema_of(typename T::value_type{}, about);
    out["type"] = Json::array({out["type"], "null"});
    if (out.contains("enum")) out["enum"].push_back(nullptr);
    out["default"] = json_of(value);
  } else {
    out["description"] = about.text;
    out["type"] = json_type<T>();
    out["default"] = value;
    const auto limit = [](double x) -> Json {
      if constexpr (std::is_integral_v<T>) return std::llround(x);
      return x;
    };
    if (std::isfinite(about.least)) out["minimum"] = limit(about.least);
    if (std::isfinite(about.most)) out["maximum"] = limit(about.most);
    if (about.is_size) {
      // A bare number is read as text, and so as bytes.
      out["type"] = Json::array({"string", "integer"});
      Json ways = Json::array({{{"type", "integer"}, {"minimum", 0}}});
      ways.push_back({{"type", "string"}, {"pattern", kSizePattern}});
      if (about.names != nullptr) ways.push_back({{"enum", split(about.names)}});
      out["anyOf"] = ways;
    } else if (about.names != nullptr) {
      out["enum"] = split(about.names);
    }
  }
  return out;
}

template <class T>
Json schema_of_section(const T& section, const char* text) {
  Json properties = Json::object();
  T::visit(section, [&](const char* name, const auto& value, const About& about) {
    if constexpr (Section<std::remove_cvref_t<decltype(value)>>) {
      properties[name] = schema_of_section(value, about.text);
    } else {
      properties[name] = schema_of(value, about);
    }
  });
  return {{"description", text},
          {"type", "object"},
          {"additionalProperties", false},
          {"properties", std::move(properties)}};
}

}  // namespace

std::string dump_config_json(const Config& config) {
  return json_of(config).dump() + "\n";
}

std::string config_schema() {
  Json schema = {{"$schema", "http://json-schema.org/draft-07/schema#"},
                 {"title", "Hotset's settings"}};
  schema.update(
      schema_of_section(Config(), "what `hotset --config` takes; unknown keys are errors"));
  return schema.dump(2) + "\n";
}

}  // namespace hotset
