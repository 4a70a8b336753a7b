// A child process of this one with pipes at its standard streams: starting it, and learning how it
// ended. Used by ngx.pipe. Knows no loop: whoever handles SIGCHLD calls bury_children().
//
// Only children started here are waited for, by number: those of os.execute, io.popen and libraries
// keep their exit status for who started them.
#pragma once

#include <sys/types.h>

#include <cstdint>

#include "core/list.h"
#include "core/result.h"
#include "core/socket.h"

namespace core {

class Child : public ListNode {
  public:
    enum class End : uint8_t { none, exited, signalled, unknown };

    struct Options {
        const char* file;                      // looked for on $PATH
        const char* const* arguments;          // of it, its name first, null-terminated
        const char* const* environment;        // null: this process's
        bool merge_stderr;                     // its stderr goes where its stdout goes
    };

    // `ended` is called from bury_children() once; it may destroy this object.
    Child(void (*ended)(void* argument), void* argument) : ended_(ended), argument_(argument) {}
    // One that still runs is not ended by this, but it is buried when it ends.
    ~Child();

    // Errors: "pipe failed: TEXT", "fork failed: TEXT". That the program cannot be executed is the
    // child's own failure: it logs it and exits with 1.
    Result<void> start(const Options& options);

    pid_t pid() const { return pid_; }
    bool running() const { return pid_ > 0 && end_ == End::none; }
    End end() const { return end_; }
    int status() const { return status_; }     // exit code or signal number

    // Our ends, non-blocking. Without merge_stderr `error` is one too.
    Fd input, output, error;

  private:
    friend void bury_children();
    void set_end(int wait_status);

    void (*ended_)(void*);
    void* argument_;
    pid_t pid_ = 0;
    End end_ = End::none;
    int status_ = 0;
};

// SIGCHLD has come: looks which children have ended.
void bury_children();

}  // namespace core
