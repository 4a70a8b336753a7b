// Accept-Encoding, read for gzip.
#include "server/http/gzip_accept.h"

#include <gtest/gtest.h>

using server::encoding_allows_gzip;

TEST(AcceptEncoding, Allows) {
    for (core::Slice value : {"gzip", "GZIP", "gzip, deflate", "deflate,gzip", "br, gzip;q=0.5",
                              "gzip;q=1", "gzip;q=1.000", "gzip ; q=0.001", "gzip;", "x-gzip, gzip",
                              "gzip;q=0.5, deflate"}) {
        EXPECT_TRUE(encoding_allows_gzip(value)) << value;
    }
}

TEST(AcceptEncoding, Refuses) {
    for (core::Slice value : {"", "gz", "deflate", "xgzip", "gzipx", "gzip;q=0", "gzip;q=0.000",
                              "gzip;q=2", "gzip;q=x", "gzip;q", "gzip;q=", "gzip;x=1",
                              "gzip;q=0.0001", "gzip;q=1.5", "x-gzip"}) {
        EXPECT_FALSE(encoding_allows_gzip(value)) << value;
    }
}
