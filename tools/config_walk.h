// Walks the field list of a configuration (tools/config.h).
#pragma once

#include <optional>
#include <string>
#include <type_traits>

#include "tools/config.h"

namespace hotset {

struct IgnoreField {
  template <class T>
  void operator()(const char*, T&, const About&) const {}
};
template <class T>
concept Section = requires(T& section) {
  T::visit(section, IgnoreField{});
};

template <class T>
constexpr bool kIsOptional = false;
template <class T>
constexpr bool kIsOptional<std::optional<T>> = true;

// Calls leaf(key, value, about) for every setting, with its full key ("cpu.threads").
template <class Self, class Leaf>
void walk_config(Self& section, const std::string& prefix, const Leaf& leaf) {
  std::remove_const_t<Self>::visit(section, [&](const char* name, auto& value, const About& about) {
    const std::string key = prefix + name;
    if constexpr (Section<std::remove_cvref_t<decltype(value)>>) {
      walk_config(value, key + ".", leaf);
    } else {
      leaf(key, value, about);
    }
  });
}

}  // namespace hotset
