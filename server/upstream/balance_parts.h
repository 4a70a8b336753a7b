// What the files of the balancing methods share; nobody else includes it.
#pragma once

#include "server/upstream/balance.h"

namespace server {

// How often a method that may hit a server it cannot use goes on before round robin decides.
constexpr int method_attempts_max = 20;

bool can_take(const Choice& choice, uint32_t index, int64_t now_s);
Peer* take(Choice& choice, uint32_t index, const PeerStore& store, int64_t now_s);

// Each: the index of a peer in choice.list, -1 for none.
int round_robin(Choice& choice, int64_t now_s);
int round_robin_among(Choice& choice, int64_t now_s, core::Slice server);
int by_address(Choice& choice, int64_t now_s);
int by_key(Choice& choice, int64_t now_s);
int by_ring(Choice& choice, int64_t now_s);

}  // namespace server
