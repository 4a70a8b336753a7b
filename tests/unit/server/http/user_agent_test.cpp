// Browsers by their User-Agent.
#include "server/http/user_agent.h"

#include <gtest/gtest.h>

using server::browser_of;

namespace {

TEST(UserAgent, OldInternetExplorer) {
    EXPECT_TRUE(browser_of("Mozilla/4.0 (compatible; MSIE 6.0; Windows NT 5.0)").msie6);
    EXPECT_TRUE(browser_of("Mozilla/4.0 (compatible; MSIE 5.5; Windows 98)").msie6);
    auto patched = browser_of("Mozilla/4.0 (compatible; MSIE 6.0; Windows NT 5.1; SV1)");
    EXPECT_TRUE(patched.msie);
    EXPECT_FALSE(patched.msie6);
    EXPECT_FALSE(browser_of("Mozilla/4.0 (compatible; MSIE 10.0; Windows NT 6.1)").msie6);
}

TEST(UserAgent, CutShort) {
    EXPECT_FALSE(browser_of("MSIE ").msie);
    EXPECT_FALSE(browser_of("MSIE 6.").msie);
    EXPECT_FALSE(browser_of("").msie);
}

TEST(UserAgent, OthersByTheirWords) {
    EXPECT_TRUE(browser_of("Mozilla/4.0 (compatible; MSIE 6.0) Opera 8").opera);
    EXPECT_FALSE(browser_of("Mozilla/4.0 (compatible; MSIE 6.0) Opera 8").msie);
    EXPECT_TRUE(browser_of("Mozilla/5.0 Gecko/2010 Firefox/4").gecko);
    EXPECT_TRUE(browser_of("Mozilla/5.0 (X11) Chrome/120.0 Safari/537.36").chrome);
    EXPECT_TRUE(browser_of("Mozilla/5.0 (Intel Mac OS X) Version/17 Safari/605").safari);
    EXPECT_FALSE(browser_of("Mozilla/5.0 (Windows) Version/5 Safari/533").safari);
    EXPECT_TRUE(browser_of("Mozilla/5.0 (compatible; Konqueror/4.4)").konqueror);
}

}  // namespace
