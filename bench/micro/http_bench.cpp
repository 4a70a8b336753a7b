// A request's way, whole and in parts: heads, phases, variables, and the entry into Lua. Requests
// come in batches over a socket pair, so that the kernel's share is small.
#include <benchmark/benchmark.h>

#include <string>

#include "core/text.h"
#include "server/http/h1_head.h"
#include "server/http/request.h"
#include "server/http/variables.h"
#include "tests/support/in_process.h"

namespace {

constexpr char request_text[] =
    "GET /%s?a=1&b=two HTTP/1.1\r\n"
    "Host: www.example.com\r\n"
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:109.0) Gecko/20100101 Firefox/115.0\r\n"
    "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n"
    "Accept-Language: en-US,en;q=0.5\r\n"
    "Accept-Encoding: gzip, deflate, br\r\n"
    "Cookie: session=0123456789abcdef; theme=dark\r\n"
    "\r\n";

std::string request_to(const char* path) { return core::format(request_text, path); }

support::InProcess& server_in_process() {
    static auto& one = *new support::InProcess(R"(
        keepalive_requests 1000000000;

        location = /return { return 200 hello; }
        location = /variables { return 200 "$host $request_uri $arg_b $http_user_agent $status"; }
        location = /rules { rewrite ^/rules$ /return last; }
        location = /lua { content_by_lua_block { ngx.say("hello") } }
        location = /lua_phases {
            rewrite_by_lua_block { ngx.ctx.a = 1 }
            access_by_lua_block { ngx.ctx.b = 2 }
            content_by_lua_block { ngx.say(ngx.ctx.a + ngx.ctx.b) }
        }
    )");
    return one;
}

// Finding the end of a head.
void head_scan(benchmark::State& state) {
    std::string head = request_to("return");
    constexpr server::HeadLimits limits{8192, 32768};
    for (auto _ : state) {
        server::HeadScan scan;
        benchmark::DoNotOptimize(scan.scan(head, limits));
    }
    state.SetBytesProcessed(int64_t(state.iterations()) * int64_t(head.size()));
}
BENCHMARK(head_scan);

// The same, and taking it apart, in a request of its own.
void head_parse(benchmark::State& state) {
    auto& in_process = server_in_process();
    server::H1* connection;
    int client = in_process.connect(&connection);
    std::string head = request_to("return");
    constexpr server::HeadLimits limits{8192, 32768};
    auto& server = *in_process.listen().default_server;
    for (auto _ : state) {
        auto* request = server::Request::create(*connection, *connection, server);
        server::HeadScan scan;
        scan.scan(head, limits);
        llhttp__internal_s* parser = nullptr;
        const server::HeadMemo::Entry* known = nullptr;
        benchmark::DoNotOptimize(server::parse_head(*request, head, scan, &parser, &known));
        server::Request::destroy(request);
    }
    ::close(client);
    in_process.turn();
}
BENCHMARK(head_parse);

void answer(benchmark::State& state, const char* path) {
    constexpr int batch = 64;
    auto& in_process = server_in_process();
    int client = in_process.connect();
    std::string one = request_to(path), requests, answers;
    for (int i = 0; i < batch; ++i) requests += one;
    int64_t count = 0;
    for (auto _ : state) {
        if (::write(client, requests.data(), requests.size()) != ssize_t(requests.size())) {
            return state.SkipWithError("write");
        }
        in_process.turn();
        answers.clear();
        support::InProcess::drain(client, answers);
        count += batch;
    }
    if (!answers.starts_with("HTTP/1.1 200 ")) state.SkipWithError("not answered");
    state.SetItemsProcessed(count);
    ::close(client);
    in_process.turn();
}

void request_return(benchmark::State& state) { answer(state, "return"); }
BENCHMARK(request_return);
void request_variables(benchmark::State& state) { answer(state, "variables"); }
BENCHMARK(request_variables);
void request_rewrite(benchmark::State& state) { answer(state, "rules"); }
BENCHMARK(request_rewrite);
void request_lua(benchmark::State& state) { answer(state, "lua"); }
BENCHMARK(request_lua);
void request_lua_phases(benchmark::State& state) { answer(state, "lua_phases"); }
BENCHMARK(request_lua_phases);

// Texts with variables, `range` of them on one request.
void complex_value(benchmark::State& state) {
    auto& in_process = server_in_process();
    auto& table = in_process.configuration().variables();
    static const auto value = *server::ComplexValue::compile(
        "https://$host$request_uri?$arg_a=$arg_b;$http_user_agent", table, {});
    server::H1* connection;
    int client = in_process.connect(&connection);
    std::string head = request_to("return");
    constexpr server::HeadLimits limits{8192, 32768};
    server::HeadScan scan;
    scan.scan(head, limits);
    auto& server = *in_process.listen().default_server;
    for (auto _ : state) {
        auto* request = server::Request::create(*connection, *connection, server);
        llhttp__internal_s* parser = nullptr;
        const server::HeadMemo::Entry* known = nullptr;
        server::parse_head(*request, head, scan, &parser, &known);
        for (int64_t i = 0; i < state.range(0); ++i) {
            benchmark::DoNotOptimize(value.evaluate(*request));
        }
        server::Request::destroy(request);
    }
    ::close(client);
    in_process.turn();
}
BENCHMARK(complex_value)->Arg(0)->Arg(1)->Arg(16);

}  // namespace
