// Telling browsers apart by the words in their User-Agent, as nginx does.
#include "server/http/user_agent.h"

#include "server/http/core_conf.h"
#include "server/http/request.h"

namespace server {

namespace {

bool has(core::Slice text, core::Slice word) { return text.find(word) != core::Slice::npos; }

void see_msie(core::Slice agent, Browser& browser) {
    constexpr core::Slice word = "MSIE ";
    size_t at = agent.find(word);
    if (at == core::Slice::npos || at + word.size() + 2 >= agent.size()) return;
    browser.msie = true;
    char version = agent[at + word.size()];
    if (agent[at + word.size() + 1] != '.') return;
    browser.msie6 = version == '4' || version == '5' || (version == '6' && !has(agent, "SV1"));
}

}  // namespace

Browser browser_of(core::Slice agent) {
    Browser browser;
    if (has(agent, "Opera")) {
        browser.opera = true;
        return browser;
    }
    see_msie(agent, browser);
    if (browser.msie) return browser;
    if (has(agent, "Gecko/")) browser.gecko = true;
    else if (has(agent, "Chrome/")) browser.chrome = true;
    else if (has(agent, "Safari/") && has(agent, "Mac OS X")) browser.safari = true;
    else if (has(agent, "Konqueror")) browser.konqueror = true;
    return browser;
}

Browser browser_of(const Request& request) {
    const Header* agent = request.headers.find(HeaderId::user_agent);
    return agent ? browser_of(agent->value) : Browser{};
}

bool keepalive_disabled(const Request& request) {
    const auto& disabled = request.core().keepalive_disable.value;
    bool msie6 = disabled.has(KeepaliveDisable::msie6) && request.method == Method::post;
    bool safari = disabled.has(KeepaliveDisable::safari);
    if (!msie6 && !safari) return false;
    Browser browser = browser_of(request);
    return (msie6 && browser.msie6) || (safari && browser.safari);
}

}  // namespace server
