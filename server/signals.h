// Signals of this process, turned into bytes on a pipe so that a loop can wait for them beside its
// descriptors. Used by the master (poll) and by workers (their reactor).
#pragma once

#include <sys/types.h>

#include "core/result.h"

namespace server {

struct Signals {
    bool hup = false, usr1 = false, usr2 = false, winch = false, quit = false, term = false,
         interrupt = false, child = false;
    pid_t hup_from = 0, quit_from = 0, term_from = 0, winch_from = 0;
};

// Installs the handlers and makes the pipe; again after a fork, with the signals blocked meanwhile.
core::Result<void> open_signals();
int signal_fd();               // readable when something has come
Signals take_signals();        // what has come since the last call; empties the pipe

// Until open_signals(): what asks a running server for something waits, where it would end one that
// is not ready yet. Those that end it anyway are left alone.
void hold_request_signals();

// Holds back all of them around a fork.
void block_signals();
void unblock_signals();

}  // namespace server
