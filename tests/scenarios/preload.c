/* What the kernel may answer and almost never does: errors of system calls, and a wall clock that jumps. Compiled by
 * preload.rs and preloaded (LD_PRELOAD, ld.so(8)) into a daemon under test, which is not changed for it.
 *
 * The file that FAULTS names is shared with the test: one struct fault for each call, in the order of preload.rs. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum call { SOCKET, CONNECT, ACCEPT, SETSOCKOPT, GETSOCKOPT, EPOLL_CTL, SPLICE, SEND, RECV, PIPE, WRITE, SHUTDOWN, SECCOMP,
	WORKER_WAIT, MAIN_WAIT, WALL_CLOCK, MONOTONIC_CLOCK, CALLS };

struct fault {
	uint32_t every; /* each so manieth call fails; 0: none */
	uint32_t error;
	uint32_t calls;
	uint32_t failed;
};

static struct fault nowhere[CALLS];
static struct fault *faults = nowhere;

__attribute__((constructor)) static void share(void)
{
	const char *path = getenv("FAULTS");
	int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
	void *shared = MAP_FAILED;

	if (fd >= 0)
		shared = mmap(NULL, sizeof nowhere, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (shared == MAP_FAILED)
		abort();
	close(fd);
	faults = shared;
}

static int strikes(enum call call)
{
	struct fault *fault = &faults[call];
	uint32_t every = __atomic_load_n(&fault->every, __ATOMIC_RELAXED);
	uint32_t calls = __atomic_add_fetch(&fault->calls, 1, __ATOMIC_RELAXED);

	if (every == 0 || calls % every != 0)
		return 0;
	__atomic_add_fetch(&fault->failed, 1, __ATOMIC_RELAXED);
	errno = (int)fault->error;
	return 1;
}

#define REAL(name) \
	static __typeof__(&name) real; \
	if (!real) \
		real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

int socket(int domain, int type, int protocol)
{
	REAL(socket);
	return strikes(SOCKET) ? -1 : real(domain, type, protocol);
}

/* Without an error it is only late, as a thread is that loses its processor. */
int connect(int fd, const struct sockaddr *address, socklen_t length)
{
	REAL(connect);
	if (!strikes(CONNECT))
		return real(fd, address, length);
	if (errno)
		return -1;
	/* Not by a system call that the daemon may not make. */
	for (time_t until = time(NULL) + 3; time(NULL) < until;)
		;
	return real(fd, address, length);
}

int accept4(int fd, struct sockaddr *address, socklen_t *length, int flags)
{
	REAL(accept4);
	return strikes(ACCEPT) ? -1 : real(fd, address, length, flags);
}

int setsockopt(int fd, int level, int name, const void *value, socklen_t length)
{
	REAL(setsockopt);
	return strikes(SETSOCKOPT) ? -1 : real(fd, level, name, value, length);
}

int getsockopt(int fd, int level, int name, void *value, socklen_t *length)
{
	REAL(getsockopt);
	return strikes(GETSOCKOPT) ? -1 : real(fd, level, name, value, length);
}

int epoll_ctl(int epoll, int operation, int fd, struct epoll_event *event)
{
	REAL(epoll_ctl);
	return strikes(EPOLL_CTL) ? -1 : real(epoll, operation, fd, event);
}

ssize_t splice(int in, off64_t *in_at, int out, off64_t *out_at, size_t length, unsigned flags)
{
	REAL(splice);
	return strikes(SPLICE) ? -1 : real(in, in_at, out, out_at, length, flags);
}

ssize_t send(int fd, const void *bytes, size_t length, int flags)
{
	REAL(send);
	return strikes(SEND) ? -1 : real(fd, bytes, length, flags);
}

ssize_t recv(int fd, void *bytes, size_t length, int flags)
{
	REAL(recv);
	return strikes(RECV) ? -1 : real(fd, bytes, length, flags);
}

/* What has no function of its own. The kernel looks at as many arguments as the call has. */
long syscall(long number, ...)
{
	REAL(syscall);
	long all[6];
	va_list arguments;

	va_start(arguments, number);
	for (int at = 0; at < 6; at++)
		all[at] = va_arg(arguments, long);
	va_end(arguments);
	if (number == SYS_seccomp && strikes(SECCOMP))
		return -1;
	return real(number, all[0], all[1], all[2], all[3], all[4], all[5]);
}

int pipe2(int ends[2], int flags)
{
	REAL(pipe2);
	return strikes(PIPE) ? -1 : real(ends, flags);
}

/* To the TUN device and into pipes; not the log, nor the eight bytes of a bell. */
ssize_t write(int fd, const void *bytes, size_t length)
{
	REAL(write);
	return fd != STDERR_FILENO && length > 8 && strikes(WRITE) ? -1 : real(fd, bytes, length);
}

int shutdown(int fd, int how)
{
	REAL(shutdown);
	return strikes(SHUTDOWN) ? -1 : real(fd, how);
}

/* More events than there is room for, which the caller's slice does not have: a panic in whichever thread asks. */
int epoll_wait(int epoll, struct epoll_event *events, int most, int timeout)
{
	REAL(epoll_wait);
	int ready = real(epoll, events, most, timeout);

	return strikes(most == 64 ? WORKER_WAIT : MAIN_WAIT) ? most + 1 : ready;
}

/* A year forward, a year back. */
int clock_gettime(clockid_t clock, struct timespec *now)
{
	REAL(clock_gettime);
	int done = real(clock, now);

	if (clock != CLOCK_REALTIME && clock != CLOCK_REALTIME_COARSE)
		strikes(MONOTONIC_CLOCK);
	else if (strikes(WALL_CLOCK))
		now->tv_sec += faults[WALL_CLOCK].failed % 2 ? 31536000 : -31536000;
	return done;
}
