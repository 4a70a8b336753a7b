// A client's connection under any bytes and any splits, through the whole server: what is answered
// with 200 (each request's target and body, sent back) must not depend on how the bytes arrived,
// and nothing may be left when the client has gone.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "tests/support/in_process.h"

namespace {

support::InProcess& echo_server() {
    static auto& one = *new support::InProcess(R"(
        client_header_buffer_size 256;
        large_client_header_buffers 2 512;
        client_max_body_size 4k;
        client_body_buffer_size 1k;
        lingering_close off;
        location / { echo_read_request_body; echo "$request_method $uri"; echo_request_body; }
    )");
    return one;
}

void write_all(int client, const char* bytes, size_t size) {
    // The server may have closed: what it does not take is not part of the conversation.
    [[maybe_unused]] ssize_t taken = ::send(client, bytes, size, MSG_NOSIGNAL);
}

// All that the server said to `bytes`, given in pieces of the sizes in `steps`.
std::string converse(const std::string& bytes, const std::string& steps) {
    auto& server = echo_server();
    int client = server.connect();
    std::string said;
    for (size_t at = 0, i = 0; at < bytes.size(); ++i) {
        size_t step = steps.empty() ? bytes.size() : 1 + uint8_t(steps[i % steps.size()]);
        step = std::min(step, bytes.size() - at);
        write_all(client, bytes.data() + at, step);
        at += step;
        server.turn();
        if (!support::InProcess::drain(client, said)) break;
    }
    for (int i = 0; i < 4; ++i) server.turn();
    support::InProcess::drain(client, said);
    ::close(client);
    for (int i = 0; i < 8 && server.worker().connection_count; ++i) server.turn();
    if (server.worker().connection_count) std::abort();
    return said;
}

// The responses with 200, without their heads: what the server understood.
std::vector<std::string> understood(const std::string& said) {
    static const std::string status = "HTTP/1.1 ", ok = "200";
    std::vector<std::string> result;
    for (size_t at = said.find(status); at != std::string::npos;) {
        size_t next = said.find("\nHTTP/1.1 ", at);
        std::string one = said.substr(at, next == std::string::npos ? next : next + 1 - at);
        size_t body = one.find("\r\n\r\n");
        if (one.compare(status.size(), ok.size(), ok) == 0 && body != std::string::npos) {
            result.push_back(one.substr(body));
        }
        at = next == std::string::npos ? next : next + 1;
    }
    return result;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    constexpr size_t size_max = 8192, steps_max = 8;
    if (size == 0 || size > size_max) return 0;
    size_t count = std::min<size_t>(data[0] % steps_max, size - 1);
    std::string steps(reinterpret_cast<const char*>(data) + 1, count);
    std::string bytes(reinterpret_cast<const char*>(data) + 1 + count, size - 1 - count);
    if (understood(converse(bytes, "")) != understood(converse(bytes, steps))) std::abort();
    return 0;
}
