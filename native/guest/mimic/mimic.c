/*
 * A guest kernel that is the enemy: does what a script says with the floppy driver's own code, or with its own.
 *
 *   insmod mimic.ko script=FILE
 *
 * One step a line, hexadecimal but for the last: `OP ADDRESS OFFSET A B COUNT`, done COUNT times.
 *
 *   call ADDRESS OFFSET A B    call the function there with the arguments A and B
 *   jump ADDRESS OFFSET A B    jump to the `out` instruction there, with port A and value B in its registers
 *   out  0 0 A B               write the byte B to port A from here
 *   in   0 0 A 0               read a byte from port A
 *
 */
#include <linux/fs.h>
#include <linux/io.h>
#include <linux/module.h>
#include <linux/moduleparam.h>

MODULE_DESCRIPTION("Mimics a driver, to try what a filter of its requests lets through");
MODULE_LICENSE("Apache-2.0");

enum { LARGEST = 1 << 18, DEEP = 64 };

static char *script;
module_param(script, charp, 0);

static char text[LARGEST];

/* Where the stack was before a jump into the middle of a function. */
unsigned long mimic_stack;

/*
 * Every slot of the stack above holds the same way back: however many registers the function restores before it returns,
 * it returns here.
 */
static noinline void jump(unsigned long target, unsigned long port, unsigned long value)
{
	asm volatile("push %%rbp\n\tpush %%rbx\n\tpush %%r12\n\tpush %%r13\n\tpush %%r14\n\tpush %%r15\n\t"
		     "mov %%rsp, mimic_stack(%%rip)\n\t"
		     "lea 2f(%%rip), %%rcx\n\t"
		     "mov %[deep], %%r8d\n"
		     "1:\tpush %%rcx\n\t"
		     "dec %%r8d\n\t"
		     "jnz 1b\n\t"
		     /* Controller 0 wherever a function keeps its number; one more turn where it counts down in ebp. */
		     "xor %%ebx, %%ebx\n\tmov $1, %%ebp\n\txor %%r12d, %%r12d\n\txor %%r13d, %%r13d\n\txor %%r14d, %%r14d\n\t"
		     "jmp *%%rdi\n"
		     "2:\tmov mimic_stack(%%rip), %%rsp\n\t"
		     "pop %%r15\n\tpop %%r14\n\tpop %%r13\n\tpop %%r12\n\tpop %%rbx\n\tpop %%rbp"
		     : "+D"(target), "+d"(port), "+a"(value)
		     : [deep] "i"(DEEP)
		     : "rcx", "rsi", "r8", "r9", "r10", "r11", "memory", "cc");
}

static void step(const char *operation, unsigned long address, unsigned long a, unsigned long b)
{
	switch (operation[0]) {
	case 'c':
		((int (*)(unsigned long, unsigned long))address)(a, b);
		break;
	case 'j':
		jump(address, a, b);
		break;
	case 'o':
		outb((u8)b, (u16)a);
		break;
	default:
		inb((u16)a);
	}
}

static int __init mimic(void)
{
	struct file *file = filp_open(script, O_RDONLY, 0);
	unsigned long address, offset, a, b, count;
	char operation[8], *line = text;
	loff_t at = 0;
	int used;

	if (IS_ERR(file))
		return PTR_ERR(file);
	kernel_read(file, text, sizeof(text) - 1, &at);
	filp_close(file, NULL);
	while (sscanf(line, "%7s %lx %lx %lx %lx %lu%n", operation, &address, &offset, &a, &b, &count, &used) == 6) {
		for (; count; count--)
			step(operation, address + offset, a, b);
		line += used;
	}
	return 0;
}
module_init(mimic);

static void __exit leave(void)
{
}
module_exit(leave);
