// A card's memory for activations and tables, taken while a model is set up. RAII owner of what it
// gave; `bytes` counts the card's.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/cuda/card_runtime.h"
#include "runtime/device.h"

namespace hotset {

class CardWorkspace {
 public:
  explicit CardWorkspace(CardRuntime& card) : card_(card) {}

  template <class T>
  T* take(int64_t count) {
    const int64_t bytes = count * static_cast<int64_t>(sizeof(T));
    bytes_ += bytes;
    return memory_.emplace_back(card_, CardMemory::Place::kCard, bytes, "activations")
        .template as<T>();
  }
  template <class T>
  T* take_pinned(int64_t count) {
    const int64_t bytes = count * static_cast<int64_t>(sizeof(T));
    pinned_bytes_ += bytes;
    return memory_.emplace_back(card_, CardMemory::Place::kPinned, bytes, "what a card exchanges")
        .template as<T>();
  }
  Rows rows(int64_t rows, int64_t width) { return {take<float>(rows * width), rows, width}; }
  QuantisedRows quantised(int64_t rows, int64_t width) {
    const int64_t units = (width + 31) / 32;
    return {take<int8_t>(rows * units * 32), take<float>(rows * units),
            take<int16_t>(rows * units * 2), units};
  }
  QuantisedRows quantised_pinned(int64_t rows, int64_t width) {
    const int64_t units = (width + 31) / 32;
    return {take_pinned<int8_t>(rows * units * 32), take_pinned<float>(rows * units),
            take_pinned<int16_t>(rows * units * 2), units};
  }
  Activations activations(int64_t rows, int64_t width) {
    return {this->rows(rows, width), quantised(rows, width)};
  }
  Routing routing(int64_t rows, int64_t k) {
    return {take<int32_t>(rows * k), take<float>(rows * k), rows, k};
  }
  int64_t bytes() const { return bytes_; }
  int64_t pinned_bytes() const { return pinned_bytes_; }

 private:
  CardRuntime& card_;
  std::vector<CardMemory> memory_;
  int64_t bytes_ = 0, pinned_bytes_ = 0;
};

}  // namespace hotset
