// What the User-Agent field says about the browser, for the few directives that still ask
// (keepalive_disable, msie_padding, msie_refresh, gzip_disable).
#pragma once

#include "core/slice.h"

namespace server {

class Request;

// At most one of them but for msie6, which comes with msie.
struct Browser {
    bool msie = false;
    bool msie6 = false;       // versions 4 to 6, but not that of Windows XP's second service pack
    bool opera = false;
    bool gecko = false;
    bool chrome = false;
    bool safari = false;      // on macOS
    bool konqueror = false;
};
Browser browser_of(core::Slice user_agent);
Browser browser_of(const Request& request);

// keepalive_disable names this client: its connection ends with the response.
bool keepalive_disabled(const Request& request);

}  // namespace server
