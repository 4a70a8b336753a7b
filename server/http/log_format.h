// LogFormat: a log_format compiled into a row of operations, run once a request straight into the
// line. Called by the log module.
#pragma once

#include <string>
#include <vector>

#include "conf/directive.h"
#include "core/slice.h"
#include "server/http/line_buffer.h"

namespace server {

class Request;

enum class LogEscape : uint8_t { standard, json, none };

// Values as they stand in a line. `standard`: quotes, backslashes, controls and (unless
// `plain_non_ascii`) bytes from 127 on become \xXX.
void append_escaped(LineBuffer& to, core::Slice value, LogEscape how, bool plain_non_ascii);

class LogFormat {
  public:
    std::string name;
    LogEscape escape = LogEscape::standard;

    // Appends what one argument of the directive says.
    conf::Result<void> compile(core::Slice text, const conf::Line& line);
    void append_line(Request& request, LineBuffer& to, bool plain_non_ascii) const;

  private:
    enum class Kind : uint8_t {
        literal, variable, time_local, time_iso8601, msec, request_time, status, bytes_sent,
        body_bytes_sent, request_line, field,
    };
    struct Op {
        Kind kind;
        int variable = 0;              // or a HeaderId
        std::string text;
    };
    void add_literal(core::Slice text);
    // A value without data is not there.
    void append_found(LineBuffer& to, core::Slice value, bool plain_non_ascii) const;
    void append_value(Request& request, int index, LineBuffer& to, bool plain_non_ascii) const;

    std::vector<Op> ops_;
};

}  // namespace server
