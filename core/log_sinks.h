// The destinations of log lines, for core/log.cpp and for whoever writes a log of his own form to
// syslog (access logs).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "core/log.h"
#include "core/result.h"
#include "core/slice.h"
#include "core/socket.h"

namespace core {

std::shared_ptr<LogSink> stderr_sink();

// A failure is ignored.
void write_to_stderr(Slice text);

// Does somebody read at the other end, who may stop to?
bool has_reader(int fd);
// As write(2), in whole lines where it can, but never waits for the reader: EAGAIN, or a shorter
// text written, when the pipe takes no more.
ssize_t write_unless_full(int fd, Slice text);

// A syslog server spoken to in RFC 3164 datagrams over UDP or a Unix socket. Sending never blocks
// and never fails upwards: a datagram the kernel refuses is lost, the socket is made anew.
class Syslog {
  public:
    static constexpr size_t header_bytes_max = 512;

    // `parameters` is what follows "syslog:": server=ADDRESS[:PORT][,facility=…][,severity=…]
    // [,tag=…][,nohostname]. A host name is looked up at once, blocking: only for load time.
    // Errors have nginx's wording.
    static Result<std::shared_ptr<Syslog>> open(Slice parameters);

    // `severity`: 0 (emerg) … 7 (debug). `text` without newline.
    void send(int severity, Slice text);
    // With the severity of the parameters (info by default).
    void send(Slice text) { send(severity_, text); }

  private:
    friend struct SyslogParser;

    bool connect();

    Address server_;
    int facility_ = 23;          // local7
    int severity_ = 6;           // info
    bool with_hostname_ = true;
    std::string tag_ = "nginx";  // what log processors written for nginx expect
    std::string hostname_;
    Fd fd_;
};

}  // namespace core
