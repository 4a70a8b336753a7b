// Whether a client takes gzip, for whoever sends it: the gzip filter, gzip_static, gunzip. Owns the
// directives gzip_vary, gzip_http_version, gzip_proxied and gzip_disable.
#pragma once

#include "core/slice.h"

namespace server {

class Request;

// By the request's Accept-Encoding, version, Via and User-Agent and the response's caching fields.
bool accepts_gzip(const Request& request);
// Does an Accept-Encoding value allow gzip (nginx's reading: "gzip" with a weight above 0)?
bool encoding_allows_gzip(core::Slice value);
// gzip_vary on
bool gzip_vary_on(const Request& request);
// The response depends on Accept-Encoding: adds "Vary: Accept-Encoding" with gzip_vary.
void note_gzip_vary(Request& request);
// A transformed body is another representation: "x" becomes W/"x".
void weaken_etag(Request& request);

}  // namespace server
