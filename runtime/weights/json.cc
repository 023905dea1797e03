// One bounded JSON parse through nlohmann's event interface, and the typed view of objects.
#include "runtime/weights/json.h"

#include <span>
#include <vector>

#include "kernels/check.h"
#include "runtime/weights/file.h"
#include "runtime/weights/messages.h"

namespace hotset {
namespace {

using nlohmann::json;

// Builds the document from parse events. The library's own builder keeps the last of two equal keys
// and nests without a limit, which then overflows the stack when the document is destroyed.
class Builder : public nlohmann::json_sax<json> {
 public:
  bool null() override { return put(nullptr); }
  bool boolean(bool value) override { return put(value); }
  bool number_integer(number_integer_t value) override { return put(value); }
  bool number_unsigned(number_unsigned_t value) override { return put(value); }
  bool number_float(number_float_t value, const string_t&) override { return put(value); }
  bool string(string_t& value) override { return put(std::move(value)); }
  bool binary(binary_t&) override { return refuse("binary values are not JSON"); }

  bool start_object(size_t) override { return open(json::object()); }
  bool start_array(size_t) override { return open(json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }

  bool key(string_t& name) override {
    json& object = *open_.back();
    if (object.contains(name)) return refuse("the key \"" + printable(name) + "\" occurs twice");
    slot_ = &object[name];
    return true;
  }

  bool parse_error(size_t position, const std::string&,
                   const nlohmann::detail::exception& error) override {
    const std::string_view what = error.what();  // "[json.exception...] " and the reason
    return refuse("not valid JSON at byte " + std::to_string(position) + ": " +
                  printable(what.substr(what.find("] ") + 2), 300));
  }

  json take() { return std::move(root_); }
  const std::string& error() const { return error_; }

 private:
  bool refuse(std::string why) {
    error_ = std::move(why);
    return false;
  }

  json* place(json value) {
    if (open_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    if (open_.back()->is_array()) {
      // Only the innermost array grows, so the pointers in open_ stay valid.
      open_.back()->push_back(std::move(value));
      return &open_.back()->back();
    }
    *slot_ = std::move(value);
    return slot_;
  }

  bool put(json value) {
    place(std::move(value));
    return true;
  }

  bool open(json container) {
    if (open_.size() == kMaxJsonDepth) {
      return refuse("nested deeper than " + std::to_string(kMaxJsonDepth) + " levels");
    }
    open_.push_back(place(std::move(container)));
    return true;
  }

  bool close() {
    open_.pop_back();
    return true;
  }

  json root_;
  std::vector<json*> open_;  // the containers being filled, outermost first
  json* slot_ = nullptr;     // where the value of the last key goes
  std::string error_;
};

}  // namespace

json parse_json(std::string_view text, const std::string& file) {
  Builder builder;
  if (!json::sax_parse(text.begin(), text.end(), &builder)) {
    throw Error(file + ": " + builder.error());
  }
  return builder.take();
}

json read_json_file(const std::string& path) {
  const File file(path);
  if (file.size() > kMaxJsonBytes) {
    throw Error(path + ": " + std::to_string(file.size()) + " bytes of JSON, expected at most " +
                std::to_string(kMaxJsonBytes));
  }
  std::string text(file.size(), '\0');
  file.read(0, std::as_writable_bytes(std::span(text)));
  return parse_json(text, path);
}

JsonObject::JsonObject(const json& value, std::string file, std::string prefix)
    : value_(&value), file_(std::move(file)), prefix_(std::move(prefix)) {
  if (!value.is_object()) {
    const std::string where = prefix_.empty() ? "" : ": " + prefix_.substr(0, prefix_.size() - 1);
    throw Error(file_ + where + ": found " + value.type_name() + ", expected a JSON object");
  }
}

const json* JsonObject::find(const std::string& key) const {
  const auto at = value_->find(key);
  return at == value_->end() || at->is_null() ? nullptr : &*at;
}

std::optional<JsonObject> JsonObject::find_object(const std::string& key) const {
  const json* value = find(key);
  if (value == nullptr) return std::nullopt;
  return JsonObject(*value, file_, prefix_ + key + ".");
}

std::optional<int64_t> JsonObject::find_integer(const std::string& key) const {
  const json* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_number_integer()) wrong_type(key, "an integer");
  if (value->is_number_unsigned() && value->get<uint64_t>() > INT64_MAX) {
    fail(key, "found " + value->dump() + ", which is out of range");
  }
  return value->get<int64_t>();
}

std::optional<double> JsonObject::find_number(const std::string& key) const {
  const json* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_number()) wrong_type(key, "a number");
  return value->get<double>();
}

std::optional<bool> JsonObject::find_boolean(const std::string& key) const {
  const json* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_boolean()) wrong_type(key, "true or false");
  return value->get<bool>();
}

std::optional<std::string> JsonObject::find_string(const std::string& key) const {
  const json* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_string()) wrong_type(key, "a string");
  return value->get<std::string>();
}

int64_t JsonObject::integer(const std::string& key) const {
  const auto value = find_integer(key);
  if (!value) fail(key, "missing, expected an integer");
  return *value;
}

double JsonObject::number(const std::string& key) const {
  const auto value = find_number(key);
  if (!value) fail(key, "missing, expected a number");
  return *value;
}

bool JsonObject::boolean(const std::string& key) const {
  const auto value = find_boolean(key);
  if (!value) fail(key, "missing, expected true or false");
  return *value;
}

void JsonObject::fail(const std::string& key, const std::string& what) const {
  throw Error(file_ + ": " + prefix_ + key + ": " + what);
}

void JsonObject::wrong_type(const std::string& key, const char* expected) const {
  fail(key, std::string("found ") + find(key)->type_name() + ", expected " + expected);
}

}  // namespace hotset
