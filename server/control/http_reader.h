// ControlHttp: reads the requests of one control connection (HTTP/1.1 by llhttp), with limits.
// Knows no sockets: bytes go in, whole requests come out.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "core/slice.h"

namespace server {

struct ControlRequest {
    std::string method, target;
    std::string path, query;               // of the target, as they came
    std::string body;
    std::string if_match, authorization;
    bool expects_continue = false;
    bool keep_alive = true;

    // A parameter of the query is there, and is not "0" or "false".
    bool flag(core::Slice name) const;
};

class ControlHttp {
  public:
    static constexpr size_t head_bytes_max = 16 * 1024;
    static constexpr size_t body_bytes_max = 16 << 20;

    enum class State : unsigned char { more, wants_continue, complete, refused };

    ControlHttp();
    ~ControlHttp();
    ControlHttp(const ControlHttp&) = delete;
    ControlHttp& operator=(const ControlHttp&) = delete;

    // Reads on from `bytes`; what was used is taken off its front. wants_continue: the client waits
    // for a 100 before it sends the body; it is said once. After `complete` comes next().
    State feed(std::string& bytes);
    ControlRequest& request();
    void next();
    bool has_head() const;                 // all of it: who asks is known
    size_t body_bytes() const;             // read so far

    // Why it was refused.
    int status() const;
    const char* reason() const;

  private:
    struct Parser;
    std::unique_ptr<Parser> parser_;
};

}  // namespace server
