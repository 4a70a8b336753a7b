// The main level's directives that need more than a field; which worker runs on which processor.
#include <gtest/gtest.h>

#include <utility>

#include "conf/binder.h"
#include "conf/parser.h"
#include "server/features.h"
#include "server/main_conf.h"
#include "server/module.h"

namespace {

using namespace server;

// The MainConf that `text` makes, or the error.
core::Result<MainConf> bound(core::Slice text) {
    conf::ModuleTable table{"main", main_module.directives.data(), main_module.directives.size(),
                            main_module.conf.create, main_module.conf.destroy,
                            main_module.conf.merge};
    struct OnlyModule {   // it has the first index here, its own again afterwards
        uint16_t index = std::exchange(main_module.index, uint16_t(0));
        ~OnlyModule() { main_module.index = index; }
    } only;
    conf::Binder binder({table});
    binder.prefix = "/p/";
    conf::Tree tree;
    auto parsed = conf::parse_source(text, "test", {}, tree);
    if (!parsed) return parsed.take_error();
    conf::Level level(1, nullptr, conf::in_main);
    auto done = binder.bind(tree.nodes, level, tree);
    if (done) done = binder.inherit({&level});
    if (!done) return done.take_error();
    return *static_cast<MainConf*>(level.get(0));
}

std::string error_of(core::Slice text) {
    auto conf = bound(text);
    return conf ? "" : conf.error().what.substr(0, conf.error().what.find(" in test:"));
}

TEST(MainModule, Defaults) {
    auto conf = bound("");
    ASSERT_TRUE(conf);
    EXPECT_TRUE(conf->daemon.value);
    EXPECT_EQ(conf->worker_processes, 1);
    EXPECT_EQ(conf->pid.value, "/p/logs/nginx.pid");
    EXPECT_EQ(conf->worker_shutdown_timeout.value.count, 60000);
    ASSERT_EQ(conf->thread_pools.size(), 1u);
    EXPECT_EQ(conf->thread_pools[0].name, "default");
    EXPECT_EQ(conf->thread_pools[0].threads, 32);
}

TEST(MainModule, Workers) {
    EXPECT_EQ(bound("worker_processes 4;")->worker_processes, 4);
    EXPECT_GE(bound("worker_processes auto;")->worker_processes, 1);
    EXPECT_EQ(error_of("worker_processes x;"), "\"worker_processes\" directive invalid value");
    EXPECT_EQ(error_of("worker_processes 0;"), "\"worker_processes\" must be between 1 and 1024");
    EXPECT_EQ(error_of("worker_processes 1; worker_processes 2;"),
              "\"worker_processes\" directive is duplicate");
    EXPECT_EQ(bound("worker_priority -5;")->worker_priority.value, -5);
}

TEST(MainModule, ThreadPools) {
    auto conf = bound("thread_pool slow threads=4 max_queue=9;");
    ASSERT_TRUE(conf);
    EXPECT_EQ(conf->thread_pools[0].threads, 4);
    EXPECT_EQ(conf->thread_pools[0].max_queue, 9);
    EXPECT_EQ(error_of("thread_pool slow max_queue=9;"),
              "\"thread_pool\" must have \"threads\" parameter");
    EXPECT_EQ(error_of("thread_pool a threads=0;"), "invalid threads value \"threads=0\"");
    EXPECT_EQ(error_of("thread_pool a threads=1 x=2;"), "invalid parameter \"x=2\"");
}

TEST(MainModule, Events) {
    auto conf = bound("events { worker_connections 77; multi_accept on; }");
    ASSERT_TRUE(conf);
    EXPECT_EQ(conf->worker_connections.value, 77);
    EXPECT_TRUE(conf->multi_accept.value);
    EXPECT_EQ(error_of("events { } events { }"), "\"events\" directive is duplicate");
    EXPECT_EQ(error_of("events { use nonsense; }"), "invalid event type \"nonsense\"");
    EXPECT_EQ(error_of("worker_connections 7;"),
              "\"worker_connections\" directive is not allowed here");
}

TEST(MainModule, ProcessorMasks) {
    auto conf = bound("worker_cpu_affinity 0001 0110;");
    ASSERT_TRUE(conf);
    using Mask = std::vector<bool>;
    EXPECT_EQ(cpu_mask_of(*conf, 0, 4), (Mask{true, false, false, false}));
    EXPECT_EQ(cpu_mask_of(*conf, 1, 4), (Mask{false, true, true, false}));
    EXPECT_EQ(cpu_mask_of(*conf, 7, 4), (Mask{false, true, true, false}));
    EXPECT_TRUE(cpu_mask_of(*conf, -1, 4).empty());
    EXPECT_EQ(error_of("worker_cpu_affinity 012;"),
              "invalid character \"2\" in \"worker_cpu_affinity\"");

    auto spread = bound("worker_cpu_affinity auto 1010;");
    ASSERT_TRUE(spread);
    EXPECT_EQ(cpu_mask_of(*spread, 0, 4), (Mask{false, true, false, false}));
    EXPECT_EQ(cpu_mask_of(*spread, 1, 4), (Mask{false, false, false, true}));
    EXPECT_EQ(cpu_mask_of(*spread, 2, 4), (Mask{false, true, false, false}));
    EXPECT_TRUE(cpu_mask_of(*bound(""), 0, 4).empty());
}

TEST(MainModule, LoadModule) {
    EXPECT_EQ(error_of("load_module modules/ngx_http_nonsense_module.so;"),
              "module \"modules/ngx_http_nonsense_module.so\" is not built in, and binary modules "
              "cannot be loaded");
    EXPECT_TRUE(bound("load_module modules/ndk_http_module.so;"));
    EXPECT_TRUE(is_built_in("ndk_http_module.so"));
    EXPECT_FALSE(is_built_in("ngx_http_perl_module.so"));
}

TEST(Modules, IndexesFollowNames) {
    const auto& all = modules();
    for (size_t i = 0; i < all.size(); ++i) {
        EXPECT_EQ(all[i]->index, i);
        if (i) {
            EXPECT_LT(std::string(all[i - 1]->name), std::string(all[i]->name));
        }
    }
}

}  // namespace
