// OcspRequest: one question to an OCSP responder over plain HTTP (RFC 6960 A.1), from the worker's
// loop, blocking nothing. Stapling and the checks of client certificates ask by it.
//
// Brings the bytes of the answer; what they say is core/ocsp's business.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/log.h"
#include "core/reactor.h"
#include "core/resolver.h"
#include "core/result.h"
#include "core/slice.h"
#include "core/socket.h"
#include "core/timer.h"

namespace server {

// Where a responder is: "http://host[:port][/path]".
struct OcspResponder {
    std::string host, uri = "/";
    int port = 80;

    // The error is nginx's: `invalid URL prefix in OCSP responder "…"`.
    static core::Result<OcspResponder> parse(core::Slice url);
};

// How host names become addresses.
struct OcspResolving {
    core::Resolver* resolver = nullptr;
    int64_t timeout_ms = 30000;
};

class OcspRequest final : public core::IoHandler {
  public:
    // Called once, from the loop and never from inside start(); may destroy the request. Null: no
    // answer was to be had, which is logged.
    using Done = std::function<void(const std::string* answer)>;

    // `certificate` is for the log, and may be empty; so is the number of the connection.
    OcspRequest(OcspResponder responder, std::string question, std::string certificate,
                const core::LogContext& log, Done done);
    ~OcspRequest();
    OcspRequest(const OcspRequest&) = delete;
    OcspRequest& operator=(const OcspRequest&) = delete;

    void start(const OcspResolving& resolving);
    void on_io(uint8_t ready) override;
    // For whoever judges the answer.
    const core::LogContext& log() const { return log_; }

  private:
    void resolved(const core::Resolution& found);
    void connect();
    void next();
    void send();
    void receive();
    bool judge(bool ended);
    void end(bool good);
    void hang_up();
    static void describe(const void* self, core::LogLine& line);

    OcspResponder responder_;
    std::string question_, certificate_;
    core::LogContext log_;
    Done done_;
    std::vector<core::Address> addresses_;
    size_t next_address_ = 0;
    std::string peer_;
    std::unique_ptr<core::ResolveQuery> query_;
    core::Stream stream_;
    core::Watch watch_;
    core::Timer timer_;
    core::Deferred ended_;
    size_t sent_ = 0;
    std::string answer_;             // as it came; once it is whole, its body
    bool connected_ = false, over_ = false, good_ = false;
};

}  // namespace server
