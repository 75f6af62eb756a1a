# What every bare-metal guest begins and ends with: a 64 KiB ROM that starts in 16-bit real mode at f000:0. The test's own
# code is included in between. It tells the test bytes by port 0xe9 (QEMU's isa-debugcon) and ends by port 0xf4
# (isa-debug-exit).
	.code16

	.macro tell			# al to the test
	out	%al, $0xe9
	.endm

	.macro tell_word		# ax
	out	%al, $0xe9
	xchg	%al, %ah
	out	%al, $0xe9
	xchg	%al, %ah
	.endm

	.macro tell_long		# eax
	tell_word
	ror	$16, %eax
	tell_word
	ror	$16, %eax
	.endm

	.macro done			# QEMU's exit code becomes 1
	mov	$0, %al
	out	%al, $0xf4
	.endm

	.macro write width, port, value
	mov	$\port, %dx
	.if \width == 1
	mov	$\value, %al
	out	%al, %dx
	.elseif \width == 2
	mov	$\value, %ax
	out	%ax, %dx
	.else
	mov	$\value, %eax
	out	%eax, %dx
	.endif
	.endm

	.macro read width, port		# into al, ax, eax
	mov	$\port, %dx
	.if \width == 1
	in	%dx, %al
	.elseif \width == 2
	in	%dx, %ax
	.else
	in	%dx, %eax
	.endif
	.endm

	.macro unreal			# gives ds and es all 4 GiB, for memory-mapped devices
	cli
	lgdtl	%cs:flat_table_pointer
	mov	%cr0, %eax
	or	$1, %al
	mov	%eax, %cr0
	mov	$8, %bx
	mov	%bx, %ds
	mov	%bx, %es
	and	$0xfe, %al
	mov	%eax, %cr0
	xor	%bx, %bx
	mov	%bx, %ds
	mov	%bx, %es
	.endm

	.globl	start
start:
	xor	%ax, %ax
	mov	%ax, %ds
	mov	%ax, %es
	mov	%ax, %ss
	mov	$0x7000, %sp
	.include "body.S"
1:	hlt
	jmp	1b

	.balign	8
flat_table:
	.quad	0, 0x00cf93000000ffff
flat_table_pointer:
	.word	. - flat_table - 1
	.long	0xf0000 + flat_table

	.org	0xfff0
	.ifdef	own_beginning		# to come back to the reset vector
	in	%dx, %eax
	ljmp	$0xf000, $begin
	.else
	ljmp	$0xf000, $start
	.endif
	.org	0x10000
