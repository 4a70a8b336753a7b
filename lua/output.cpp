// The response as Lua writes it; see output.h.
#include "lua/output.h"

#include "lua/conf.h"
#include "lua/thread.h"
#include "server/http/core_conf.h"
#include "server/http/request.h"

namespace lua {

using server::Verdict;

namespace {

void prepare_head(LuaRequest& state, const LuaConf& conf) {
    server::Response& response = state.request.response;
    if (response.status == 0) response.status = 200;
    if (!state.mime_set) {
        state.mime_set = true;
        if (conf.use_default_type && response.status != 304) {
            if (response.content_type.empty() && !response.content_type_cleared)
                response.content_type = server::mime_type(state.request);
        } else if (response.content_type.empty()) {
            response.content_type_cleared = true;
        }
    }
    if (!state.headers_set) {
        response.content_length = -1;
        response.allow_ranges = false;
    }
}

// HTTP/1.0 clients get a Content-Length: the body is held back until its end.
void start_buffering(LuaRequest& state, const LuaConf& conf) {
    const server::Request& request = state.request;
    if (conf.http10_buffering && request.output == server::Request::Output::none &&
        request.head.version < 11 && request.response.content_length < 0) {
        state.buffering = true;
    }
}

Verdict send_head(LuaRequest& state) {
    if (state.request.output != server::Request::Output::none) return Verdict::pass();
    if (state.filter_status) return Verdict::reject(state.filter_status);
    Verdict verdict = state.request.send_header();
    if (verdict.is(Verdict::rejected)) state.filter_status = uint16_t(verdict.status);
    return verdict;
}

}  // namespace

Verdict send_lua_head(LuaRequest& state, const LuaConf& conf) {
    if (state.request.output != server::Request::Output::none) return Verdict::pass();
    prepare_head(state, conf);
    if (state.buffering) return Verdict::pass();
    return send_head(state);
}

namespace {

enum class Way : uint8_t { to_filters, to_held, nowhere };

// Sees to the head before a piece of the body; says where the piece goes.
Way begin_piece(LuaRequest& state, const LuaConf& conf, Verdict& verdict) {
    server::Request& request = state.request;
    if (state.raw_socket || state.eof) return Way::nowhere;
    if (request.output == server::Request::Output::none) {
        if (request.method == server::Method::head) request.header_only = true;
        start_buffering(state, conf);
        verdict = send_lua_head(state, conf);
        if (!verdict.is(Verdict::passed)) return Way::nowhere;
    }
    if (request.header_only) {
        state.eof = true;
        if (state.buffering) verdict = send_head(state);
        return Way::nowhere;
    }
    return state.buffering ? Way::to_held : Way::to_filters;
}

}  // namespace

Verdict send_lua_body(LuaRequest& state, const LuaConf& conf, core::Chain&& piece) {
    Verdict verdict = Verdict::pass();
    Way way = begin_piece(state, conf, verdict);
    if (way == Way::to_filters) return state.request.send(std::move(piece));
    if (way == Way::to_held) state.held.append(std::move(piece));
    return verdict;
}

Verdict send_lua_text(LuaRequest& state, const LuaConf& conf, core::Slice text) {
    Verdict verdict = Verdict::pass();
    Way way = begin_piece(state, conf, verdict);
    if (way == Way::to_filters) return state.request.send_text(text, false);
    if (way == Way::to_held) state.held.add_copy(text);
    return verdict;
}

Verdict end_lua_output(LuaRequest& state, const LuaConf& conf) {
    server::Request& request = state.request;
    if (state.raw_socket || state.eof) return Verdict::pass();
    if (request.output == server::Request::Output::none) {
        if (request.method == server::Method::head) request.header_only = true;
        start_buffering(state, conf);
        Verdict verdict = send_lua_head(state, conf);
        if (!verdict.is(Verdict::passed)) return verdict;
    }
    state.eof = true;
    if (state.buffering) {
        if (!request.header_only && request.response.content_length < 0)
            request.response.content_length = state.held.bytes();
        Verdict verdict = send_head(state);
        if (!verdict.is(Verdict::passed) || request.header_only) return verdict;
        core::Chain held = std::move(state.held);
        held.add_mark(core::Buffer::last);
        return request.send(std::move(held));
    }
    return request.send_last();
}

server::RequestBody::Options read_options(const server::Request& request) {
    server::BodyFile in_file = request.core().client_body_in_file_only;
    server::RequestBody::Options options;
    options.in_single_buffer = true;
    options.in_file_only = in_file != server::BodyFile::off;
    options.clean_file = in_file != server::BodyFile::on;
    return options;
}

}  // namespace lua
