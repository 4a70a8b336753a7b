// The URLs of OCSP responders.
#include "server/http/ocsp_request.h"

#include <gtest/gtest.h>

namespace {

using server::OcspResponder;

TEST(OcspResponder, ReadsUrls) {
    struct { const char *url, *host; int port; const char* uri; } cases[] = {
        {"http://a.test", "a.test", 80, "/"},
        {"HTTP://a.test/", "a.test", 80, "/"},
        {"http://a.test:8080/x/y?z", "a.test", 8080, "/x/y?z"},
        {"http://127.0.0.1/ocsp", "127.0.0.1", 80, "/ocsp"},
        {"http://a.test?x", "a.test", 80, "/"},
    };
    for (const auto& each : cases) {
        auto read = OcspResponder::parse(each.url);
        ASSERT_TRUE(read) << each.url;
        EXPECT_EQ(read->host, each.host) << each.url;
        EXPECT_EQ(read->port, each.port) << each.url;
        EXPECT_EQ(read->uri, each.uri) << each.url;
    }
}

TEST(OcspResponder, RefusesWhatIsNone) {
    for (const char* url : {"", "http://", "https://a.test/", "a.test", "http:///x", "http://:80/",
                            "http://a.test:0/", "http://a.test:99999/", "http://unix:/x",
                            "http://a.test/x\r\nHost: b", "http://a.test/ x"}) {
        auto read = OcspResponder::parse(url);
        ASSERT_FALSE(read) << url;
        EXPECT_NE(read.error().what.find("in OCSP responder \""), std::string::npos) << url;
    }
    EXPECT_EQ(OcspResponder::parse("https://x/").error().what,
              "invalid URL prefix in OCSP responder \"https://x/\"");
}

}  // namespace
