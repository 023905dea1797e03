// JSON from files that we do not trust: one bounded parse (depth, duplicate keys, UTF-8), and an
// object view whose accessors say file, key, found and expected. null counts as absent, as Hugging
// Face configurations write it for "not set".
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

namespace hotset {

inline constexpr size_t kMaxJsonDepth = 64;
inline constexpr uint64_t kMaxJsonBytes = 100'000'000;

// Throws Error naming `file` and what is wrong where: syntax, UTF-8, depth over kMaxJsonDepth, a
// key that one object has twice.
nlohmann::json parse_json(std::string_view text, const std::string& file);

// Reads and parses a whole file of at most kMaxJsonBytes.
nlohmann::json read_json_file(const std::string& path);

// A view of one object; `file` names it in messages, `prefix` is put before keys ("text_config.").
class JsonObject {
 public:
  JsonObject(const nlohmann::json& value, std::string file, std::string prefix = "");
  JsonObject(nlohmann::json&&, std::string, std::string = "") = delete;  // it is a view

  const std::string& file() const { return file_; }
  const nlohmann::json* find(const std::string& key) const;  // nullptr: absent or null
  std::optional<JsonObject> find_object(const std::string& key) const;

  std::optional<int64_t> find_integer(const std::string& key) const;
  std::optional<double> find_number(const std::string& key) const;
  std::optional<bool> find_boolean(const std::string& key) const;
  std::optional<std::string> find_string(const std::string& key) const;
  int64_t integer(const std::string& key) const;
  double number(const std::string& key) const;
  bool boolean(const std::string& key) const;

  // "FILE: KEY: " + what
  [[noreturn]] void fail(const std::string& key, const std::string& what) const;

 private:
  [[noreturn]] void wrong_type(const std::string& key, const char* expected) const;

  const nlohmann::json* value_;
  std::string file_, prefix_;
};

}  // namespace hotset
