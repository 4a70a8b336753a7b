// What this thread's pools of memory (arena blocks, chunks, buffers) keep, given back to the heap:
// called by the worker when a crowd has left. Those who use the pools need not know.
#pragma once

namespace core {

void drain_arena_pool();
void drain_buffer_pools();

}  // namespace core
