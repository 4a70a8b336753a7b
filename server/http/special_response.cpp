// Built-in answers: status texts and the small HTML pages.
#include "server/http/special_response.h"

#include "core/text.h"
#include "server/http/core_conf.h"
#include "server/http/escape.h"
#include "server/http/request.h"
#include "server/http/user_agent.h"

namespace server {

namespace {

struct StatusText {
    int status;
    core::Slice text;
    core::Slice page_title;      // where the page says something else
};

constexpr StatusText statuses[] = {
    {100, "100 Continue", {}},
    {101, "101 Switching Protocols", {}},
    {102, "102 Processing", {}},
    {103, "103 Early Hints", {}},
    {200, "200 OK", {}},
    {201, "201 Created", {}},
    {202, "202 Accepted", {}},
    {203, "203 Non-Authoritative Information", {}},
    {204, "204 No Content", {}},
    {205, "205 Reset Content", {}},
    {206, "206 Partial Content", {}},
    {207, "207 Multi-Status", {}},
    {300, "300 Multiple Choices", {}},
    {301, "301 Moved Permanently", "301 Moved Permanently"},
    {302, "302 Moved Temporarily", "302 Found"},
    {303, "303 See Other", "303 See Other"},
    {304, "304 Not Modified", {}},
    {307, "307 Temporary Redirect", "307 Temporary Redirect"},
    {308, "308 Permanent Redirect", "308 Permanent Redirect"},
    {400, "400 Bad Request", "400 Bad Request"},
    {401, "401 Unauthorized", "401 Authorization Required"},
    {402, "402 Payment Required", "402 Payment Required"},
    {403, "403 Forbidden", "403 Forbidden"},
    {404, "404 Not Found", "404 Not Found"},
    {405, "405 Not Allowed", "405 Not Allowed"},
    {406, "406 Not Acceptable", "406 Not Acceptable"},
    {407, "407 Proxy Authentication Required", {}},
    {408, "408 Request Time-out", "408 Request Time-out"},
    {409, "409 Conflict", "409 Conflict"},
    {410, "410 Gone", "410 Gone"},
    {411, "411 Length Required", "411 Length Required"},
    {412, "412 Precondition Failed", "412 Precondition Failed"},
    {413, "413 Request Entity Too Large", "413 Request Entity Too Large"},
    {414, "414 Request-URI Too Large", "414 Request-URI Too Large"},
    {415, "415 Unsupported Media Type", "415 Unsupported Media Type"},
    {416, "416 Requested Range Not Satisfiable", "416 Requested Range Not Satisfiable"},
    {421, "421 Misdirected Request", "421 Misdirected Request"},
    {422, "422 Unprocessable Entity", {}},
    {423, "423 Locked", {}},
    {424, "424 Failed Dependency", {}},
    {425, "425 Too Early", {}},
    {426, "426 Upgrade Required", {}},
    {428, "428 Precondition Required", {}},
    {429, "429 Too Many Requests", "429 Too Many Requests"},
    {431, "431 Request Header Fields Too Large", {}},
    {451, "451 Unavailable For Legal Reasons", {}},
    {500, "500 Internal Server Error", "500 Internal Server Error"},
    {501, "501 Not Implemented", "501 Not Implemented"},
    {502, "502 Bad Gateway", "502 Bad Gateway"},
    {503, "503 Service Temporarily Unavailable", "503 Service Temporarily Unavailable"},
    {504, "504 Gateway Time-out", "504 Gateway Time-out"},
    {505, "505 HTTP Version Not Supported", "505 HTTP Version Not Supported"},
    {507, "507 Insufficient Storage", "507 Insufficient Storage"},
};

// Statuses that clients never see as such: they get 400 and a page that says what was wrong.
struct MappedStatus {
    int status;
    core::Slice title;
    core::Slice explanation;
};
constexpr MappedStatus mapped[] = {
    {494, "400 Request Header Or Cookie Too Large", "Request Header Or Cookie Too Large"},
    {495, "400 The SSL certificate error", "The SSL certificate error"},
    {496, "400 No required SSL certificate was sent", "No required SSL certificate was sent"},
    {497, "400 The plain HTTP request was sent to HTTPS port",
     "The plain HTTP request was sent to HTTPS port"},
};

const StatusText* find_status(int status) {
    if (status == 200) return &statuses[4];
    for (const auto& known : statuses) {
        if (known.status == status) return &known;
    }
    return nullptr;
}

// Internet Explorer and Chrome show pages of their own in place of short ones.
bool wants_padding(const Request& request, int status) {
    if (status < 400 || request.head.version < 10 || !request.core().msie_padding) return false;
    Browser browser = browser_of(request);
    return browser.msie || browser.chrome;
}

constexpr core::Slice padding =
    "<!-- a padding to disable MSIE and Chrome friendly error page -->\r\n";
constexpr int paddings = 6;

core::Slice page_text(Request& request, int& status) {
    core::Slice title, heading, explanation;
    for (const auto& known : mapped) {
        if (known.status != status) continue;
        title = known.title;
        heading = "400 Bad Request";
        explanation = known.explanation;
        status = 400;
    }
    if (title.empty()) {
        const StatusText* known = find_status(status);
        if (!known || known->page_title.empty()) return {};
        title = heading = known->page_title;
    }
    core::Appender page(request.arena, 512);
    page.append("<html>\r\n<head><title>");
    page.append(title);
    page.append("</title></head>\r\n<body>\r\n<center><h1>");
    page.append(heading);
    page.append("</h1></center>\r\n");
    if (!explanation.empty()) {
        page.append("<center>");
        page.append(explanation);
        page.append("</center>\r\n");
    }
    page.append("<hr><center>");
    page.append(server_token(request));
    page.append("</center>\r\n</body>\r\n</html>\r\n");
    if (wants_padding(request, status)) {
        for (int i = 0; i < paddings; ++i) page.append(padding);
    }
    return page.take();
}

// msie_refresh: a page that sends the browser on takes the place of a redirect.
core::Slice refresh_page(Request& request) {
    core::Appender page(request.arena, 256);
    page.append("<html><head><meta http-equiv=\"Refresh\" content=\"0; URL=");
    page.append(escape(request.arena, request.response.location, Escape::refresh));
    page.append("\"></head><body></body></html>\r\n");
    return page.take();
}

}  // namespace

core::Slice status_text(int status) {
    const StatusText* known = find_status(status);
    return known ? known->text : core::Slice{};
}

core::Slice server_token(const Request& request) {
    switch (*request.core().server_tokens) {
        case Tokens::on: return "openresty/1.29.8.1";
        case Tokens::build: return "openresty/1.29.8.1 (resty-server)";
        case Tokens::off: break;
    }
    return "openresty";
}

Verdict special_response(Request& request, int status) {
    Response& response = request.response;
    request.body.discard(request);
    response.last_modified = -1;
    response.etag = {};
    response.allow_ranges = false;
    response.charset = {};
    response.headers.remove(HeaderId::content_encoding);
    response.status_line = {};
    int shown = status;
    core::Slice page;
    if ((status == 301 || status == 302) && request.core().msie_refresh &&
        browser_of(request).msie) {
        page = refresh_page(request);
        response.location = {};
        shown = 200;
    } else {
        page = page_text(request, shown);
    }
    if (request.error_status == uint16_t(status)) request.error_status = uint16_t(shown);
    response.status = uint16_t(shown);
    response.content_type = page.empty() ? core::Slice{} : core::Slice("text/html");
    response.default_type = response.content_type;
    response.content_type_cleared = page.empty();
    response.content_length = int64_t(page.size());
    Verdict verdict = request.send_header();
    if (verdict.is(Verdict::rejected)) return verdict;
    core::Chain chain;
    chain.add_from_request(page).flags |= core::Buffer::last;
    request.send(std::move(chain));
    return Verdict::finish();
}

}  // namespace server
