// Builds error log lines and hands them to the sinks (core/log_sinks.cpp). Called from everywhere;
// allocates nothing, and no failure here reaches the caller.
#include "core/log.h"

#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "core/clock.h"
#include "core/histogram.h"
#include "core/log_sinks.h"
#include "core/text.h"

namespace core {

namespace {

constexpr Slice level_names[] = {"",     "emerg",  "alert", "crit", "error",
                                 "warn", "notice", "info",  "debug"};

// Room kept for " (28: No space left on device)" when the message fills the line.
constexpr size_t error_room = 50;

std::atomic<LogObserver> observer{nullptr};
std::atomic<Counter*> line_counters{nullptr};
std::atomic<const char*> echo_program{nullptr};

// "PID#TID: ", remade after a fork and once per thread.
std::atomic<uint32_t> fork_count{1};

struct Speaker {
    uint32_t fork = 0;
    size_t size = 0;
    char text[32];
};
thread_local Speaker speaker;

[[maybe_unused]] const int fork_watch =
    pthread_atfork(nullptr, nullptr, [] { fork_count.fetch_add(1, std::memory_order_relaxed); });

long thread_id() {
#ifdef __linux__
    return ::syscall(SYS_gettid);
#else
    return long(::getpid());
#endif
}

Slice speaker_text() {
    uint32_t now = fork_count.load(std::memory_order_relaxed);
    if (speaker.fork != now) {
        speaker.fork = now;
        speaker.size = size_t(std::snprintf(speaker.text, sizeof speaker.text, "%ld#%ld: ",
                                            long(::getpid()), thread_id()));
    }
    return {speaker.text, speaker.size};
}

// The offsets at which a line's parts begin.
struct Marks {
    size_t level = 0;      // "[error] …"
    size_t message = 0;
};

Marks begin_line(LogLine& line, const LogContext& where, Level level) {
    if (Clock::wall_ms() == 0) Clock::update();
    Marks marks;
    line.append(Clock::log_date());
    line.append(" ");
    marks.level = line.size();
    line.append("[");
    line.append(level_name(level));
    line.append("] ");
    line.append(speaker_text());
    if (where.connection) {
        char digits[24];
        line.append("*");
        line.append(format_unsigned(where.connection, digits));
        line.append(" ");
    }
    marks.message = line.size();
    return marks;
}

// While the process starts, what is severe is also shown to whoever started it.
void echo(const LogLine& line, const Marks& marks, Level level) {
    const char* program = echo_program.load(std::memory_order_relaxed);
    if (!program) return;
    char room[LogLine::bytes_max + 64];
    Slice message = line.text().substr(marks.message);
    int head = std::snprintf(room, 64, "%.32s: [%s] ", program, level_name(level).data());
    std::memcpy(room + head, message.data(), message.size());
    write_to_stderr({room, size_t(head) + message.size()});
}

void end_line(LogLine& line, const Marks& marks, const LogContext& where, Level level,
              int system_error) {
    if (system_error) line.append_error(system_error);
    if (level != Level::debug) {
        if (where.action) {
            line.append(" while ");
            line.append(where.action);
        }
        if (where.describe) where.describe(where.subject, line);
    }
    line.finish();
    bool on_stderr = false;
    for (const Log::Output& output : where.log->outputs) {
        if (level > output.level) continue;
        output.sink->write(level, line.text(), marks.level);
        on_stderr |= output.sink->fd() == STDERR_FILENO;
    }
    if (level <= Level::warn && !on_stderr) echo(line, marks, level);
    if (auto show = observer.load(std::memory_order_relaxed)) show(level, line.text());
    if (auto* counters = line_counters.load(std::memory_order_relaxed)) {
        core::add(counters[size_t(level)]);
    }
}

Log make_first_log() {
    Log log;
    log.add(stderr_sink(), Level::notice);
    return log;
}

}  // namespace

const char* error_name(int error) {
#ifdef __GLIBC__
    const char* text = strerrordesc_np(error);
    return text ? text : "Unknown error";
#else
    return std::strerror(error);
#endif
}

Slice level_name(Level level) { return level_names[size_t(level)]; }

std::optional<Level> parse_level(Slice name) {
    for (size_t i = 1; i < std::size(level_names); ++i) {
        if (level_names[i] == name) return Level(i);
    }
    return {};
}

void Log::add(std::shared_ptr<LogSink> sink, Level up_to) {
    level = outputs.empty() ? up_to : std::max(level, up_to);
    outputs.push_back({std::move(sink), up_to});
}

void LogLine::append(Slice text) {
    size_t part = std::min(text.size(), bytes_max - size_);
    std::memcpy(room_ + size_, text.data(), part);
    size_ += part;
}

void LogLine::append_escaped(Slice text) {
    static constexpr char digits[] = "0123456789ABCDEF";
    for (char c : text) {
        auto byte = uint8_t(c);
        if (byte >= 0x20 && byte != 0x7f) {
            append({&c, 1});
            continue;
        }
        char escape[4] = {'\\', 'x', digits[byte >> 4], digits[byte & 15]};
        append({escape, 4});
    }
}

void LogLine::append_error(int error) {
    if (size_ > bytes_max - error_room) {
        size_ = bytes_max - error_room;
        append("...");
    }
    format(" (%d: %s)", error, error_name(error));
}

void LogLine::format(const char* pattern, ...) {
    va_list list;
    va_start(list, pattern);
    vformat(pattern, list);
    va_end(list);
}

void LogLine::vformat(const char* pattern, va_list list) {
    size_t room = bytes_max - size_;
    int wanted = std::vsnprintf(room_ + size_, room + 1, pattern, list);
    if (wanted > 0) size_ += std::min(size_t(wanted), room);
}

void LogLine::finish() {
    if (size_ == bytes_max) --size_;
    room_[size_++] = '\n';
}

void log_write(const LogContext& where, Level level, int system_error, const char* pattern, ...) {
    int saved = errno;
    LogLine line;
    Marks marks = begin_line(line, where, level);
    va_list list;
    va_start(list, pattern);
    line.vformat(pattern, list);
    va_end(list);
    end_line(line, marks, where, level, system_error);
    errno = saved;
}

void log_text(const LogContext& where, Level level, int system_error, Slice text) {
    int saved = errno;
    LogLine line;
    Marks marks = begin_line(line, where, level);
    line.append(text);
    end_line(line, marks, where, level, system_error);
    errno = saved;
}

LogContext& process_log() {
    // Never destroyed: other static objects may log while they die.
    static Log& first = *new Log(make_first_log());
    static LogContext context{.log = &first};
    return context;
}

void set_log_observer(LogObserver show) { observer.store(show, std::memory_order_relaxed); }

void count_log_lines(Counter* counters) {
    line_counters.store(counters, std::memory_order_relaxed);
}

void set_log_echo(const char* program) { echo_program.store(program, std::memory_order_relaxed); }

}  // namespace core
