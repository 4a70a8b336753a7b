// What lua-resty-core's socket udata functions keep with a connection: a small list of pairs of
// numbers, newest first, that stays with it through pools.
#pragma once

#include <cstddef>
#include <cstdint>
#include <list>

namespace lua {

class SocketValues {
  public:
    explicit SocketValues(size_t capacity) : capacity_(capacity) {}

    size_t count() const { return pairs_.size(); }
    // True: *evicted had to go for it.
    struct Pair { uint64_t key, value; };
    bool add(Pair pair, Pair* evicted);
    const Pair* find(uint64_t key);          // makes it the newest
    bool remove(uint64_t key);

  private:
    size_t capacity_;                        // 0: no limit
    std::list<Pair> pairs_;
};

}  // namespace lua
