// The error log: levels, sinks (file, stderr, syslog, memory), and the context a line ends with
// (", client: …, server: …, request: …"). Lines have nginx's form, which people and tests grep:
//   2026/11/20 12:00:00 [error] PID#TID: *CONNECTION message (2: No such file) while …, client: …
#pragma once

#include <atomic>
#include <cstdarg>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/slice.h"

namespace core {

enum class Level : uint8_t { stderr_, emerg, alert, crit, error, warn, notice, info, debug };

// "Connection refused": strerror without allocation or locale.
const char* error_name(int error);

Slice level_name(Level level);                        // "error"
std::optional<Level> parse_level(Slice name);

// One destination. Writes never fail upwards: a full disk or a closed pipe costs the line, and is
// itself reported at most once a second on stderr.
class LogSink {
  public:
    virtual ~LogSink() = default;
    // `line` ends with a newline; `prefix_bytes` of it are the date and the space behind it.
    virtual void write(Level level, Slice line, size_t prefix_bytes) = 0;
    virtual void reopen() {}
    // The descriptor behind it, -1 for none. Writing to it may wait for a reader (a pipe, a
    // terminal): write_unless_full() is for those.
    virtual int fd() const { return -1; }
    virtual bool has_reader() const { return false; }
};

// The destinations of one error_log set (a location, server or the main one).
struct Log {
    struct Output {
        std::shared_ptr<LogSink> sink;
        Level level;
    };
    std::vector<Output> outputs;
    Level level = Level::error;      // the most verbose of the outputs

    void add(std::shared_ptr<LogSink> sink, Level up_to);
};

// Builds the end of a line. Truncates silently at the maximum message length (4096 bytes).
class LogLine {
  public:
    static constexpr size_t bytes_max = 4096;
    void append(Slice text);
    void append_escaped(Slice text); // control bytes as \xNN
    void append_error(int error);    // " (2: No such file or directory)"
    [[gnu::format(printf, 2, 3)]] void format(const char* pattern, ...);
    void vformat(const char* pattern, va_list list);
    Slice text() const { return {room_, size_}; }
    size_t size() const { return size_; }
    void finish();                   // adds the newline

  private:
    size_t size_ = 0;
    char room_[bytes_max + 2];
};

// Who is speaking: a process, a connection, a request. Held by value inside those objects.
struct LogContext {
    const Log* log = nullptr;
    uint64_t connection = 0;         // its serial number; 0 for none ("*N" is left out)
    const char* action = nullptr;    // "reading client request line": " while …"
    // Appends ", client: …" and so on. May be null.
    void (*describe)(const void* subject, LogLine& line) = nullptr;
    const void* subject = nullptr;

    bool enabled(Level level) const { return level <= log->level; }
};

// Writes one line; `system_error` (errno, or 0) adds " (2: No such file or directory)".
// Cold: the compiler keeps what leads to it out of the way of everything else.
[[gnu::cold, gnu::format(printf, 4, 5)]] void log_write(const LogContext& where, Level level,
                                                        int system_error, const char* pattern, ...);
// The same for text that is not a pattern (Lua's ngx.log).
void log_text(const LogContext& where, Level level, int system_error, Slice text);

// Cheap when the level is off.
#define LOG(where, severity, ...)                                             \
    do {                                                                      \
        if ((where).enabled(::core::Level::severity))                         \
            ::core::log_write((where), ::core::Level::severity, __VA_ARGS__); \
    } while (0)

#ifdef RESTY_TRACE
#define TRACE(where, ...) LOG(where, debug, 0, __VA_ARGS__)
#else
#define TRACE(where, ...) ((void)0)
#endif

// The process's own log (main error_log); starts as stderr at notice level.
LogContext& process_log();

// Parses the destination of an error_log directive: a path, "stderr", "syslog:server=…,…",
// "memory:SIZE". Files are opened once per path and shared; reopen_logs() (USR1) reopens all.
struct LogSinkError { std::string what; int system_error; };
std::shared_ptr<LogSink> open_log_sink(Slice target, const std::string& prefix,
                                       LogSinkError& error);
// Opens every file sink's path anew (a rotated file keeps its old name's writer until then); what
// cannot be opened keeps its old file and is logged. The master passes the workers' user, who
// becomes the owner of the new files so that workers can open them too.
void reopen_log_sinks(unsigned owner = unsigned(-1));
// Called just before that, by this process, for whoever holds lines back (buffered access logs).
void before_log_reopen(void (*run)());

// Every line written is also shown to this observer (Lua's ngx.errlog capture). Null to stop.
using LogObserver = void (*)(Level level, Slice line);
void set_log_observer(LogObserver observer);

// From now on lines are counted: counters[Level] goes up with each, whichever log it is for. The
// process's alone. Null to stop.
void count_log_lines(std::atomic<int64_t>* counters);

// Until the process is up, lines of level warn and worse that go to no stderr sink are also shown
// on stderr, as "PROGRAM: [emerg] …". Null ends that. `program` must stay valid.
void set_log_echo(const char* program);

// A log file opened for appending by several writers (access logs use it too).
int open_append(const std::string& path);

}  // namespace core
