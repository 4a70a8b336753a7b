// How a request ends: refusals (error pages, built-in pages), the log phase, and handing the
// request back to its exchange.
#include "server/http/connection.h"
#include "server/http/core_conf.h"
#include "server/http/exchange.h"
#include "server/http/request.h"
#include "server/http/special_response.h"
#include "server/http/subrequest.h"

namespace server {

namespace {

const ErrorPage* find_error_page(const Request& request, int status) {
    const auto& pages = request.core().error_pages;
    if (!pages || request.uri_changes_left == 0) return nullptr;
    if (request.error_page && !request.core().recursive_error_pages) return nullptr;
    for (const ErrorPage& page : *pages) {
        if (page.status == status) return &page;
    }
    return nullptr;
}

bool is_redirect_status(int status) {
    return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}

// An error_page with a URL: the client is sent there.
Verdict redirect_to_url(Request& request, const ErrorPage& page, core::Slice url) {
    int status = is_redirect_status(page.overwrite) ? page.overwrite : 302;
    request.error_status = uint16_t(status);
    request.response.location = url;
    return special_response(request, status);
}

Verdict answer_with_page(Request& request, const ErrorPage& page, int status) {
    request.error_status = uint16_t(page.overwrite >= 0 ? page.overwrite : status);
    request.response.status_line = {};
    core::Slice target = page.value.evaluate(request);
    if (target.empty()) target = "/";
    if (target[0] == '/') {
        core::Slice args = page.args.evaluate(request);
        if (request.method != Method::head) {
            request.method = Method::get;
            request.head.method_name = "GET";
        }
        return request.internal_redirect(target, args);
    }
    if (target[0] == '@') return request.named_location(target);
    return redirect_to_url(request, page, target);
}

// After these the framing or the client's intent is in doubt: the connection is not used again.
bool ends_keep_alive(int status) {
    switch (status) {
        case 400: case 413: case 414: case 431: case 494: case 495: case 496: case 497: case 500:
        case 501: case 505: return true;
        default: return false;
    }
}

}  // namespace

// What becomes of a refusal: an error page (redirected), or a built-in page (finished).
Verdict Request::reject(int status) {
    if (output == Output::broken || status == status_client_closed) {
        response.status = response.status && header_sent() ? response.status : uint16_t(status);
        cut();
        return Verdict::finish();
    }
    if (status == status_close) {
        response.status = status_close;
        cut();
        return Verdict::finish();
    }
    if (header_sent() || output == Output::header_filtering) {
        cut();               // too late for a status: the client must see that it is broken
        return Verdict::finish();
    }
    if (ends_keep_alive(status)) keep_alive = false;
    if (plain_refusals) return refuse_plainly(status);
    if (const ErrorPage* page = find_error_page(*this, status)) {
        error_page = true;
        body_filters = 0;
        return answer_with_page(*this, *page, status);
    }
    return special_response(*this, status);
}

// Whoever captures a subrequest learns the status; pages are for clients.
Verdict Request::refuse_plainly(int status) {
    response.status = uint16_t(status);
    exchange->send_head(*this);
    end_queued_ = true;
    output = Output::ended;
    return Verdict::finish();
}

void Request::cut(const char* reason) {
    if (reason && output != Output::broken) LOG(log, info, 0, "%s", reason);
    output = Output::broken;
    cut_ = true;
    keep_alive = false;
    held_.clear();
    if (finishing_) return finish();
    // Whoever produces this response and waits for the client learns that it is over.
    if (!resuming_) core::Reactor::current().at_end(core::Reactor::work, drain_call_);
}

void Request::client_aborted() {
    if (done || client_gone) return;
    client_gone = true;
    output = Output::broken;
    cut_ = true;
    keep_alive = false;
    held_.clear();
    if (!header_sent() && response.status == 0) response.status = status_client_closed;
    if (on_abort) on_abort(*this, on_abort_argument);
    if (done) return;
    if (finishing_) return finish();
    core::Reactor::current().at_end(core::Reactor::work, drain_call_);
}

// The handlers are through. Waits, where needed, for filters that hold pieces back, for postponed
// subrequests and for output that lives in the request's memory; then completes.
void Request::finish() {
    if (done) return;
    if (output != Output::broken && output != Output::ended) {
        if (output == Output::none) {
            Verdict verdict = send_header();
            if (verdict.is(Verdict::rejected)) return resume(verdict);
        }
        if (!end_queued_) send_last();
    }
    finishing_ = true;
    if (end_withheld && output == Output::open && filtering_ == Filtering::running)
        return cut("response left unfinished by a filter");
    if (output != Output::broken) {
        if (filtering_ != Filtering::running || running_children > 0) return;
        if (output != Output::ended) return;      // held back by the order of subrequests
        if (!exchange->settle(*this)) return;
    }
    complete();
}

void Request::complete() {
    if (done) return;
    done = true;
    finishing_ = false;
    if (parent && !core().log_subrequest) return exchange->request_done(*this, cut_);
    phase = Phase::log;
    log.action = "logging request";
    resume_log();
}

void Request::resume_log() {
    const auto& log_steps = location->log_steps;
    while (log_cursor_ < log_steps.size()) {
        if (log_steps[log_cursor_++].run(*this).is(Verdict::suspended)) return;
    }
    logged = true;
    exchange->request_done(*this, cut_);
}

}  // namespace server
