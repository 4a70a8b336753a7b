// Unpacking gzip piece by piece.
#include "server/http/gunzip_stream.h"

#include <gtest/gtest.h>

#include <string>

using server::GunzipStream;

namespace {

std::string pack(core::Slice text) {
    z_stream stream{};
    deflateInit2(&stream, 6, Z_DEFLATED, MAX_WBITS + 16, 8, Z_DEFAULT_STRATEGY);
    std::string out(deflateBound(&stream, text.size()) + 32, '\0');
    stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
    stream.avail_in = uInt(text.size());
    stream.next_out = reinterpret_cast<Bytef*>(out.data());
    stream.avail_out = uInt(out.size());
    deflate(&stream, Z_FINISH);
    out.resize(stream.total_out);
    deflateEnd(&stream);
    return out;
}

std::string text_of(const core::Chain& chain) {
    std::string text;
    for (core::Buffer* at = chain.head(); at; at = at->next) text.append(at->text());
    return text;
}

}  // namespace

TEST(Gunzip, TwoMembersAtEverySplit) {
    const std::string packed = pack("hello, hello, hello") + pack(" and more");
    for (size_t cut = 0; cut <= packed.size(); ++cut) {
        GunzipStream stream;
        core::Chain out;
        ASSERT_TRUE(stream.feed(core::Slice(packed).substr(0, cut), out));
        ASSERT_TRUE(stream.feed(core::Slice(packed).substr(cut), out));
        stream.flush(out);
        EXPECT_TRUE(stream.complete());
        EXPECT_EQ(text_of(out), "hello, hello, hello and more") << cut;
    }
}

TEST(Gunzip, LargeOutputOfSmallInput) {
    const std::string text(300000, 'a');
    GunzipStream stream;
    core::Chain out;
    ASSERT_TRUE(stream.feed(pack(text), out));
    stream.flush(out);
    EXPECT_EQ(text_of(out), text);
    EXPECT_TRUE(stream.complete());
}

TEST(Gunzip, CutOffOrMalformed) {
    const std::string packed = pack("hello");
    GunzipStream cut;
    core::Chain out;
    EXPECT_TRUE(cut.feed(core::Slice(packed).substr(0, packed.size() - 1), out));
    EXPECT_FALSE(cut.complete());
    GunzipStream plain;
    EXPECT_FALSE(plain.feed("this is no gzip", out));
    EXPECT_EQ(plain.error(), Z_DATA_ERROR);
}
