// What the pools of memory of this thread (arena blocks, chunks, buffers, pages of TLS connections)
// keep, given back: called by the worker when a crowd has left. Who uses the pools need not know.
#pragma once

namespace core {

void drain_arena_pool();
void drain_buffer_pools();
void drain_tls_pages();

}  // namespace core
