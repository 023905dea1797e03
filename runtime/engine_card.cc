// A card that has failed is left: what it had is made anew for the host.
#include <fmt/format.h>

#include "kernels/check.h"
#include "runtime/engine_state.h"

namespace hotset {

bool Engine::may_leave_card() const {
  return state_->is_on_card() && state_->before_leaving_card != nullptr;
}

void Engine::leave_card(const std::string& reason) {
  HOTSET_CHECK(may_leave_card(), "a card is left once, by who may");
  state_->leave_card(reason);
}

std::shared_ptr<CardDevice> Engine::State::card_device() const {
  const std::lock_guard lock(place_mutex);
  return {place, place->card};
}

// A card that was lost earlier, and could not be left then, is left for that loss. Everything that
// can fail comes before anything is changed. Other threads look at the card by is_on_card() and
// card_device(): what they were given before stays while they hold it, and what they are given
// after is complete.
void Engine::State::leave_card(const std::string& what) {
  const std::string reason = card_loss.empty() ? what : card_loss;
  const int64_t rows = rows_with(false);
  std::shared_ptr<StepPlace> next;
  Weights image;
  try {
    next = make_host_place(rows, place->card->tokens());
    plan_without_card = plan_of_host(next->device->memory());
    before_leaving_card(plan_without_card);
    image = load_image(description, sidecar.get(), [](int64_t, int64_t) {});
  } catch (const Error& error) {
    throw Error(fmt::format("{}; the CPU cannot go on without the card: {}", reason, error.what()));
  }
  image.embedding = std::move(weights.embedding);
  weights = std::move(image);
  next->forward.moe().force_routing(forced);
  rows_max = rows;
  reserve_rows();
  card_loss.clear();
  has_left_card = true;
  {
    const std::lock_guard lock(place_mutex);
    place.swap(next);
  }
  next.reset();  // waits for what the card's threads are at, if nobody else uses it
  if (on_notice) {
    on_notice(fmt::format("the CPU goes on without the card, the text so far goes through it: {}",
                          reason));
  }
}

}  // namespace hotset
