// What of an upstream's response goes on to the client: fields, redirects, cookies.
#include <algorithm>
#include <cstring>

#include "core/clock.h"
#include "core/regex.h"
#include "core/text.h"
#include "server/http/modules/proxy.h"

namespace server {

using core::Slice;

namespace {

Slice join(Request& request, Slice a, Slice b, Slice c = {}) {
    core::Appender text(request.arena, a.size() + b.size() + c.size());
    text.append(a);
    text.append(b);
    text.append(c);
    return text.take();
}

// One rule on a text from `at` on: the rest behind what matched is kept. False: it does not apply.
bool apply(Request& request, const ProxyRewrite& rule, Slice& text, size_t at) {
    Slice tail = text.substr(at);
    if (rule.pattern) {
        if (!match_captures(request, *rule.pattern, tail, rule.captures)) return false;
        text = join(request, text.substr(0, at), rule.to.evaluate(request));
        return true;
    }
    Slice from = rule.from.evaluate(request);
    if (tail.substr(0, from.size()) != from) return false;
    text = join(request, text.substr(0, at), rule.to.evaluate(request), tail.substr(from.size()));
    return true;
}

// "http://backend/two/" becomes what the location answers to.
bool apply_default(Request& request, const ProxyConf& conf, const ProxyUrl& url, Slice& text,
                   size_t at) {
    if (!conf.target.is_fixed) return false;
    Slice written = conf.target.fixed_text;
    Slice tail = text.substr(at);
    bool slash = url.path.empty();
    if (!tail.starts_with(written) || (slash && !tail.substr(written.size()).starts_with('/'))) {
        return false;
    }
    tail.remove_prefix(written.size() + slash);
    text = join(request, text.substr(0, at), slash ? Slice("/") : Slice(conf.target.location),
                tail);
    return true;
}

Slice rewrite_redirect(Request& request, const ProxyConf& conf, const ProxyUrl& url, Slice text,
                       size_t at) {
    const auto& rules = conf.redirects;
    if (rules.off) return text;
    if (!rules.is_set || rules.use_default) {
        if (apply_default(request, conf, url, text, at)) return text;
    }
    for (const ProxyRewrite& rule : rules.items) {
        if (apply(request, rule, text, at)) break;
    }
    return text;
}

// "5; url=http://…": the URL is rewritten.
Slice rewrite_refresh(Request& request, const ProxyConf& conf, const ProxyUrl& url, Slice text) {
    size_t at = core::ifind(text, "url=");
    return at == Slice::npos ? text : rewrite_redirect(request, conf, url, text, at + 4);
}

// ---- cookies ----

struct CookiePart {
    Slice name, value;
    bool has_value = false;
};

constexpr size_t cookie_parts_max = 32;

// "a=b; Path=/; Secure" in its parts. False: too many.
bool split_cookie(Slice text, CookiePart (&parts)[cookie_parts_max], size_t& count) {
    count = 0;
    while (!text.empty()) {
        if (count == cookie_parts_max) return false;
        Slice part = core::trim(text.substr(0, text.find(';')));
        text.remove_prefix(std::min(text.size(), text.find(';') == Slice::npos
                                                     ? text.size()
                                                     : text.find(';') + 1));
        if (part.empty()) continue;
        size_t equals = part.find('=');
        CookiePart& to = parts[count++];
        to.has_value = equals != Slice::npos;
        to.name = part.substr(0, equals);
        to.value = to.has_value ? part.substr(equals + 1) : Slice{};
    }
    return count > 0;
}

bool rewrite_attribute(Request& request, const Rules<ProxyRewrite>& rules, CookiePart& part,
                       bool domain) {
    for (const ProxyRewrite& rule : rules.items) {
        Slice value = part.value;
        if (domain && !rule.pattern) {
            // Domains compare without case, and without the dot in front.
            Slice own = value.starts_with('.') ? value.substr(1) : value;
            Slice from = rule.from.evaluate(request);
            if (from.starts_with('.')) from.remove_prefix(1);
            if (!core::iequals(own, from)) continue;
            part.value = rule.to.evaluate(request);
            return true;
        }
        if (!apply(request, rule, value, 0)) continue;
        part.value = value;
        return true;
    }
    return false;
}

uint32_t cookie_flag(Slice word) {
    struct Word { Slice text; uint32_t flag; };
    constexpr Word words[] = {
        {"secure", cookie_secure}, {"nosecure", cookie_no_secure},
        {"httponly", cookie_http_only}, {"nohttponly", cookie_no_http_only},
        {"samesite=strict", cookie_strict}, {"samesite=lax", cookie_lax},
        {"samesite=none", cookie_none}, {"nosamesite", cookie_no_same_site},
    };
    for (const Word& known : words) {
        if (core::iequals(word, known.text)) return known.flag;
    }
    return 0;
}

uint32_t flags_for(Request& request, const ProxyConf& conf, Slice cookie) {
    for (const ProxyCookieFlags& rule : conf.cookie_flags.items) {
        bool matches = rule.pattern ? match_captures(request, *rule.pattern, cookie, {})
                                    : core::iequals(rule.name.evaluate(request), cookie);
        if (!matches) continue;
        uint32_t flags = 0;
        for (const ComplexValue& flag : rule.flags) flags |= cookie_flag(flag.evaluate(request));
        return flags;
    }
    return 0;
}

void edit_flags(CookiePart (&parts)[cookie_parts_max], size_t& count, uint32_t flags) {
    auto drop = [&](Slice name) {
        size_t kept = 1;
        for (size_t i = 1; i < count; ++i) {
            if (!core::iequals(parts[i].name, name)) parts[kept++] = parts[i];
        }
        count = kept;
    };
    auto put = [&](Slice name, Slice value) {
        drop(name);
        if (count < cookie_parts_max) parts[count++] = {name, value, !value.empty()};
    };
    if (flags & cookie_secure) put("Secure", {});
    if (flags & cookie_no_secure) drop("Secure");
    if (flags & cookie_http_only) put("HttpOnly", {});
    if (flags & cookie_no_http_only) drop("HttpOnly");
    if (flags & cookie_strict) put("SameSite", "Strict");
    if (flags & cookie_lax) put("SameSite", "Lax");
    if (flags & cookie_none) put("SameSite", "None");
    if (flags & cookie_no_same_site) drop("SameSite");
}

Slice rewrite_cookie(Request& request, const ProxyConf& conf, Slice text) {
    CookiePart parts[cookie_parts_max];
    size_t count;
    if (!split_cookie(text, parts, count)) return text;
    bool changed = false;
    for (size_t i = 1; i < count; ++i) {
        if (!parts[i].has_value) continue;
        if (core::iequals(parts[i].name, "domain")) {
            changed |= rewrite_attribute(request, conf.cookie_domains, parts[i], true);
        } else if (core::iequals(parts[i].name, "path")) {
            changed |= rewrite_attribute(request, conf.cookie_paths, parts[i], false);
        }
    }
    if (uint32_t flags = flags_for(request, conf, parts[0].name)) {
        edit_flags(parts, count, flags);
        changed = true;
    }
    if (!changed) return text;
    core::Appender made(request.arena, text.size() + 64);
    for (size_t i = 0; i < count; ++i) {
        if (i > 0) made.append("; ");
        made.append(parts[i].name);
        if (!parts[i].has_value) continue;
        made.append('=');
        made.append(parts[i].value);
    }
    return made.take();
}

bool rewrites_cookies(const ProxyConf& conf) {
    return !conf.cookie_domains.items.empty() || !conf.cookie_paths.items.empty() ||
           !conf.cookie_flags.items.empty();
}

// A field that the response keeps apart from the others. False: it is one of those.
bool take_known(Request& request, const ProxyConf& conf, const ProxyUrl& url,
                const Header& field) {
    Response& response = request.response;
    switch (field.id) {
        case HeaderId::connection:
        case HeaderId::keep_alive:
        case HeaderId::proxy_connection:
        case HeaderId::transfer_encoding:
        case HeaderId::content_length: return true;
        case HeaderId::content_type: response.content_type = field.value; return true;
        case HeaderId::last_modified:
            response.last_modified = core::parse_http_date(field.value);
            return response.last_modified >= 0;
        case HeaderId::etag: response.etag = field.value; return true;
        case HeaderId::location:
            response.location = rewrite_redirect(request, conf, url, field.value, 0);
            return true;
        case HeaderId::refresh:
            response.headers.add(field.name, rewrite_refresh(request, conf, url, field.value),
                                 field.id);
            return true;
        case HeaderId::set_cookie:
            if (!rewrites_cookies(conf)) return false;
            response.headers.add(field.name, rewrite_cookie(request, conf, field.value), field.id);
            return true;
        case HeaderId::accept_ranges: return conf.force_ranges;
        case HeaderId::date: response.date_given = true; return false;
        case HeaderId::server: response.server_given = true; return false;
        default: return false;
    }
}

}  // namespace

void take_response_fields(Request& request, const ProxyConf& conf, const HeaderList& fields,
                          const ProxyUrl& url) {
    Response& response = request.response;
    for (const Header& field : fields) {
        if (field.removed || conf.hidden.has(field)) continue;
        if (take_known(request, conf, url, field)) continue;
        if (field.id == HeaderId::upgrade && response.status != 101) continue;
        response.headers.add(field.name, field.value, field.id);
    }
    response.default_type = response.content_type;
    response.content_type_cleared = response.content_type.empty();
    response.disable_not_modified = true;
    response.allow_ranges = conf.force_ranges;
}

bool has_error_page(const Request& request, int status) {
    const auto& pages = request.core().error_pages;
    if (!pages) return false;
    return std::any_of(pages->begin(), pages->end(),
                       [&](const ErrorPage& page) { return page.status == status; });
}

}  // namespace server
