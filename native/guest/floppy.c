/*
 * Uses a floppy disk as programs do, and checks what comes back. In the lab's guest:
 *
 *   floppy verify DEVICE SEED ROUNDS [FIRST SECTORS]
 *       write patterns all over the disk (or over that part of it), read them back from the disk, compare
 *   floppy format DEVICE TRACK
 *       format both sides of one track, and read them without an error
 *
 * Direct I/O: every read and write is one that the driver makes now, not the page cache.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fd.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { SECTOR = 512, SECTORS = 2880, TRACK = 18 * SECTOR, LARGEST = 8 };

static int fail(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	return 1;
}

static uint32_t next(uint32_t *state)
{
	*state = *state * 1664525 + 1013904223;
	return *state >> 8;
}

/* Where the round's request goes, how long it is, and what it holds follow from the seed alone. */
static size_t choose(uint32_t *state, uint32_t first, uint32_t count, off_t *offset, uint8_t *pattern)
{
	size_t sectors = 1 + next(state) % LARGEST;

	*offset = (off_t)(first + next(state) % (count - LARGEST)) * SECTOR;
	for (size_t i = 0; i < sectors * SECTOR; i++)
		pattern[i] = (uint8_t)next(state);
	return sectors * SECTOR;
}

static int verify(const char *device, uint32_t seed, uint32_t rounds, uint32_t first, uint32_t count)
{
	int file = open(device, O_RDWR | O_DIRECT | O_SYNC);
	uint8_t *pattern = aligned_alloc(4096, LARGEST * SECTOR);
	uint8_t *answer = aligned_alloc(4096, LARGEST * SECTOR);

	if (file < 0 || !pattern || !answer)
		return fail(device);
	for (uint32_t i = 0; i < rounds; i++) {
		off_t offset;
		size_t length = choose(&seed, first, count, &offset, pattern);

		if (pwrite(file, pattern, length, offset) != (ssize_t)length)
			return fail("write");
		/* Somewhere else in between, so that the head moves. */
		if (pread(file, answer, SECTOR, (off_t)(next(&seed) % SECTORS) * SECTOR) != SECTOR)
			return fail("read elsewhere");
		memset(answer, 0, length);
		if (pread(file, answer, length, offset) != (ssize_t)length)
			return fail("read");
		if (memcmp(pattern, answer, length)) {
			fprintf(stderr, "round %u: %zu bytes at %lld differ\n", i, length, (long long)offset);
			return 1;
		}
	}
	return close(file) ? fail("close") : 0;
}

static int format(const char *device, unsigned int track)
{
	int file = open(device, O_RDWR | O_EXCL | O_DIRECT);
	uint8_t *answer = aligned_alloc(4096, TRACK);

	if (file < 0 || !answer)
		return fail(device);
	if (ioctl(file, FDFMTBEG, NULL))
		return fail("FDFMTBEG");
	for (unsigned int head = 0; head < 2; head++) {
		struct format_descr where = { .device = 0, .head = head, .track = track };

		if (ioctl(file, FDFMTTRK, &where))
			return fail("FDFMTTRK");
	}
	if (ioctl(file, FDFMTEND, NULL))
		return fail("FDFMTEND");
	for (unsigned int head = 0; head < 2; head++)
		if (pread(file, answer, TRACK, (off_t)(track * 2 + head) * TRACK) != TRACK)
			return fail("read after format");
	return close(file) ? fail("close") : 0;
}

static uint32_t number(const char *text)
{
	return (uint32_t)strtoul(text, NULL, 0);
}

int main(int argc, char **argv)
{
	if ((argc == 5 || argc == 7) && !strcmp(argv[1], "verify")) {
		uint32_t first = argc == 7 ? number(argv[5]) : 0;
		uint32_t count = argc == 7 ? number(argv[6]) : SECTORS;

		if (count > LARGEST && count <= SECTORS && first <= SECTORS - count)
			return verify(argv[2], number(argv[3]), number(argv[4]), first, count);
	}
	if (argc == 4 && !strcmp(argv[1], "format"))
		return format(argv[2], number(argv[3]));
	fprintf(stderr, "usage: floppy verify DEVICE SEED ROUNDS [FIRST SECTORS] | format DEVICE TRACK\n");
	return 2;
}
