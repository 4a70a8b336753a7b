// What a server does to processes as such: going to the background, pid files, giving up
// privileges, limits, processor affinity, titles, the environment, channels between processes, and
// telling the service manager. Used by main, master and workers; blocking, none of it in a request.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "core/result.h"
#include "core/slice.h"
#include "core/socket.h"

namespace core {

// ---- the background -----------------------------------------------------------------------------

// Goes on in a child with a session of its own, stdin and stdout on /dev/null. The first process
// stays until the child calls daemon_ready(), then exits with 0 (1 if the child died before): so
// whoever started the server finds it up, and its pid file written.
Result<void> daemonize();
void daemon_ready();               // nothing to do in a process that did not daemonize
Result<void> redirect_stderr(int fd);

// ---- pid files ----------------------------------------------------------------------------------

// Errors have nginx's form: `open() "/run/x.pid" failed (13: Permission denied)`.
Result<void> write_pid_file(const std::string& path, pid_t pid);
Result<pid_t> read_pid_file(const std::string& path);
Result<void> remove_pid_file(const std::string& path);

// ---- privileges, limits, placement --------------------------------------------------------------

struct Identity {
    std::string user;
    uid_t uid = uid_t(-1);
    gid_t gid = gid_t(-1);
};
// An empty group means one named as the user. `getpwnam("x") failed (…)`.
Result<Identity> find_identity(const std::string& user, const std::string& group);
// For good, with the user's groups. `keep_transparent`: still able to bind to foreign addresses
// (CAP_NET_RAW). Afterwards a core dump is still allowed.
Result<void> become(const Identity& identity, bool keep_transparent = false);

Result<void> limit_open_files(int64_t count);
Result<void> limit_core_size(int64_t bytes);
int64_t open_files_limit();
Result<void> set_priority(int priority);
// Bit 0 first. Processors that do not exist are left out; nothing is done when none remains.
Result<void> bind_to_processors(const std::vector<bool>& mask);
// In a child that is to run another program: back to the processors this process began with.
void unbind_from_processors();
int processors_online();

// SIGPIPE and SIGXFSZ become error codes of the calls that meet them.
void ignore_write_signals();

// From now on a signal that is handled interrupts a blocking system call (EINTR).
void let_signals_interrupt();

// Asks for `signal` when `parent`, the process that forked this one, dies; after become(), which
// undoes it. True: it is gone already.
bool signal_on_parent_death(int signal, pid_t parent);

// ---- titles and the environment -----------------------------------------------------------------

// Once, at the very beginning of main: takes over the room of the arguments and the environment
// (which moves).
void open_process_title(int argc, char** argv);
void set_process_title(Slice title);   // the whole of what ps shows
// The arguments as they were given, after open_process_title.
const std::vector<std::string>& original_arguments();

// Leaves only what is named, by NAME (kept as it is) or NAME=value; TZ is always kept. For
// processes that have read their configuration, before they start threads.
void set_environment(const std::vector<std::string>& entries);

// ---- the end ------------------------------------------------------------------------------------

// Ends this process at once, taking nothing apart: connections may still be there. A build that
// counts for profile-guided optimisation writes its counts first.
[[noreturn]] void leave_process(int code);

// ---- channels -----------------------------------------------------------------------------------

// One end of a socket pair between two processes that carries messages, each with at most one
// descriptor. Never blocks. When the other process is gone, receive() says `closed`.
class Channel {
  public:
    static constexpr size_t message_bytes_max = 512;

    static Result<void> open_pair(Channel& one, Channel& other);

    int fd() const { return fd_.get(); }
    bool valid() const { return fd_.valid(); }
    void close() { fd_.reset(); }
    IoResult send(Slice message, int descriptor = -1);
    // The message's bytes are in `room`; a descriptor that came with it is the caller's.
    IoResult receive(char* room, size_t size, Fd& descriptor);

  private:
    Fd fd_;
};

// ---- the service manager ------------------------------------------------------------------------

// sd_notify's protocol: "READY=1", "RELOADING=1\nMONOTONIC_USEC=…", "STOPPING=1", "MAINPID=…".
// Does nothing when $NOTIFY_SOCKET was not set at the first call (make one before set_environment).
void notify_service_manager(Slice state);

}  // namespace core
