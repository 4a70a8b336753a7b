arena.o: /work/wt/core/core/arena.cpp /work/wt/core/core/arena.h \
 /work/wt/core/core/slice.h /work/wt/core/core/text.h
