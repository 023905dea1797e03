#include "tools/config.h"

#include <fmt/format.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <fstream>
#include <numeric>
#include <set>
#include <sstream>

#include "tools/config_walk.h"
#include "tools/size.h"

namespace hotset {
namespace {

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
  walk_config(config, "", [&](const std::string& known, auto& value, const About&) {
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
    if (!entry.first.IsScalar()) {
      throw ConfigError(
          fmt::format("{}:{}: found a key that is a section, a list or nothing, "
                      "expected a name",
                      name, entry.first.Mark().line + 1));
    }
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

template <class T>
void check_value(const std::string& key, const T& value, const About& about) {
  if constexpr (std::is_same_v<T, std::string>) {
    const std::string names = about.names != nullptr ? about.names : "";
    const bool is_named = !value.empty() && value.find('|') == std::string::npos &&
                          ("|" + names + "|").find("|" + value + "|") != std::string::npos;
    if (names.empty() && !about.is_size) return;
    if (is_named || (about.is_size && Size::parse(value))) return;
    std::string expected = about.is_size ? "a size such as 16GiB, 16GB or 50%" : "one of ";
    if (about.is_size && !names.empty()) expected += ", or ";
    for (const char c : names) expected += c == '|' ? ", " : std::string(1, c);
    throw ConfigError(fmt::format("{}: found \"{}\", expected {}", key, value, expected));
  } else if constexpr (!std::is_same_v<T, bool>) {
    const auto number = static_cast<double>(value);
    if (number >= about.least && number <= about.most) return;
    throw ConfigError(
        fmt::format("{}: found {}, expected {} to {}", key, value, about.least, about.most));
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

void load_settings(Config& config, const std::string& path,
                   const std::vector<std::string>& assignments) {
  if (!path.empty()) load_config(config, path);
  for (const std::string& assignment : assignments) set_config(config, assignment);
}

void check_config(const Config& config) {
  walk_config(config, "", [](const std::string& key, const auto& value, const About& about) {
    if constexpr (kIsOptional<std::remove_cvref_t<decltype(value)>>) {
      if (value) check_value(key, *value, about);
    } else {
      check_value(key, value, about);
    }
  });
}

PolicyOptions policy_options(const CacheConfig& config) {
  return {*policy_named(config.policy), config.half_life};
}

std::string dump_config(const Config& config) {
  YAML::Node root;
  walk_config(config, "", [&](const std::string& key, const auto& value, const About&) {
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
  walk_config(defaults, "",
              [&](const std::string& key, const auto&, const About&) { keys.push_back(key); });
  return keys;
}

}  // namespace hotset
