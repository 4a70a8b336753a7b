address.o: /work/wt/core/core/address.cpp /work/wt/core/core/socket.h \
 /work/wt/core/core/buffer.h /work/wt/core/core/slice.h \
 /work/wt/core/core/result.h /work/wt/core/core/text.h
