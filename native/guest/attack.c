/*
 * Sends the requests of an attack from user space, as root of a guest would: one request a line, `NAME ADDRESS VALUE
 * COUNT` in decimal, read from the file that is named by the first argument.
 *
 * Ports go through in and out after iopl(3), memory (`writel` …) through /dev/mem. What this guest does not let through
 * is skipped, with the reason on standard output; the last line says how many requests were sent.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/io.h>
#include <sys/mman.h>
#include <unistd.h>

static const char widths[] = "bwlq";

#define access_memory(type) \
	do { \
		if (write) \
			*(volatile type *)at = (type)value; \
		else \
			(void)*(volatile type *)at; \
	} while (0)

static int memory_request(int write, int width, uint64_t address, uint64_t value)
{
	uint64_t page = address & ~(uint64_t)4095;
	int file = open("/dev/mem", O_RDWR | O_SYNC);
	uint8_t *map;

	if (file < 0)
		return -1;
	/* Two pages: the request may cross into the next one. */
	map = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, file, (off_t)page);
	if (map == MAP_FAILED)
		map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, (off_t)page);
	close(file);
	if (map == MAP_FAILED)
		return -1;
	uint8_t *at = map + (address - page);

	switch (width) {
	case 1:
		access_memory(uint8_t);
		break;
	case 2:
		access_memory(uint16_t);
		break;
	case 4:
		access_memory(uint32_t);
		break;
	default:
		access_memory(uint64_t);
	}
	munmap(map, 8192);
	return 0;
}

static int port_request(int write, int width, uint16_t port, uint32_t value)
{
	switch (width | write << 4) {
	case 0x01:
		inb(port);
		return 0;
	case 0x02:
		inw(port);
		return 0;
	case 0x04:
		inl(port);
		return 0;
	case 0x11:
		outb((uint8_t)value, port);
		return 0;
	case 0x12:
		outw((uint16_t)value, port);
		return 0;
	case 0x14:
		outl(value, port);
		return 0;
	default:
		errno = EINVAL;
		return -1;
	}
}

static int request(const char *name, uint64_t address, uint64_t value)
{
	size_t length = strlen(name);
	const char *letter = length ? strchr(widths, name[length - 1]) : NULL;
	int width = letter ? 1 << (letter - widths) : 0;

	if (width && !strncmp(name, "out", 3) && length == 4)
		return port_request(1, width, (uint16_t)address, (uint32_t)value);
	if (width && !strncmp(name, "in", 2) && length == 3)
		return port_request(0, width, (uint16_t)address, 0);
	if (width && !strncmp(name, "write", 5) && length == 6)
		return memory_request(1, width, address, value);
	if (width && !strncmp(name, "read", 4) && length == 5)
		return memory_request(0, width, address, 0);
	errno = EINVAL;
	return -1;
}

int main(int argc, char **argv)
{
	unsigned long long address, value, count, sent = 0;
	FILE *file = argc == 2 ? fopen(argv[1], "r") : NULL;
	char name[16];

	if (!file) {
		fprintf(stderr, "usage: attack FILE\n");
		return 2;
	}
	if (iopl(3)) {
		perror("iopl");
		return 1;
	}
	while (fscanf(file, "%15s %llu %llu %llu", name, &address, &value, &count) == 4) {
		for (; count; count--) {
			if (request(name, address, value)) {
				printf("skipped %s %#llx: %s\n", name, address, strerror(errno));
				break;
			}
			sent++;
		}
	}
	printf("sent %llu\n", sent);
	return 0;
}
