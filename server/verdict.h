// What a handler says about the request it was given: never a bare integer.
#pragma once

#include <cstdint>

namespace server {

struct Verdict {
    enum Kind : uint8_t {
        declined,     // not mine: ask the next handler of this phase
        passed,       // this phase is settled: go on with the next one (access: see satisfy)
        suspended,    // I wait for something; I will call Request::resume() with my answer
        finished,     // the response is on its way: nothing more is to be done for it
        rejected,     // answer with `status` (error pages apply)
        redirected,   // the request was given another URI or location: go on from there
    };

    Kind kind;
    uint16_t status = 0;   // HTTP status, for rejected only

    static constexpr Verdict decline() { return {declined}; }
    static constexpr Verdict pass() { return {passed}; }
    static constexpr Verdict suspend() { return {suspended}; }
    static constexpr Verdict finish() { return {finished}; }
    static constexpr Verdict redirect() { return {redirected}; }
    static constexpr Verdict reject(int status) { return {rejected, uint16_t(status)}; }

    bool is(Kind k) const { return kind == k; }
};

// Statuses that never reach a client, with nginx's numbers (they appear in access logs).
enum InternalStatus : uint16_t {
    status_close = 444,               // close the connection without an answer
    status_header_too_large = 494,
    status_client_closed = 499,
};

}  // namespace server
