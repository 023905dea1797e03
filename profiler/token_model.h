// What a decoded token would take with experts on a card: a model in discrete events, for plans
// before there is a card. Nothing here has been measured on one.
//
// A layer: the card reads the mixer's and the router's weights; then two lanes run side by side,
// the card (shared expert, then the hits) and the CPU (the misses, from the host's memory); it ends
// when both have, and a synchronisation later. After the last layer the card reads the head. Copies
// of admitted experts queue behind and never hold a token; while any is under way the link takes
// its rate from the memory that misses are read from. Everything is bound by bytes: arithmetic,
// launches within a graph and the KV cache's part of attention are in `card_efficiency`.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace hotset {

struct CardRates {               // GB/s of 1e9 bytes
  double card_gbps = 360;        // the card's memory
  double card_efficiency = 0.8;  // of it, that kernels which read weights once reach
  double dram_gbps = 40;         // what the CPU reads weights with
  double link_gbps = 12;         // host to card
  double sync_us = 25;           // a layer
};

struct TokenBytes {  // of weights
  struct Layer {
    int64_t mixer = 0, shared = 0;  // the router counts as mixer: it comes before the lanes
    int64_t expert = 0;             // one
  };
  std::vector<Layer> layers;
  int64_t head = 0;
};

// A layer's picks; parts of experts where they are an expectation.
struct LayerPicks {
  double hits = 0, misses = 0, copies = 0;
};

struct TokenTime {    // seconds, by what the token was waiting for
  double mixers = 0;  // and the head
  double card = 0;    // lanes, as long as the card's was the longer one
  double cpu = 0;     // likewise the CPU's
  double sync = 0;
  double total() const { return mixers + card + cpu + sync; }
  TokenTime& operator+=(const TokenTime& other) {
    mixers += other.mixers;
    card += other.card;
    cpu += other.cpu;
    sync += other.sync;
    return *this;
  }
};

class TokenModel {
 public:
  TokenModel(TokenBytes bytes, const CardRates& rates) : bytes_(std::move(bytes)), rates_(rates) {}

  // The next token; `picks`: [layers]. Copies that are still queued go on from the one before.
  TokenTime token(std::span<const LayerPicks> picks);
  double queued_bytes() const { return queued_bytes_; }

 private:
  double read_on_card(double bytes);
  double lanes(double card_bytes, double cpu_bytes, TokenTime& time);
  void pass(double seconds);

  const TokenBytes bytes_;
  const CardRates rates_;
  double queued_bytes_ = 0;  // of copies
};

}  // namespace hotset
