/* `prepare` for guests that want the VGA in a mode of theirs: the miscellaneous output register, then the
 * tables `sequencer` and `graphics`, pairs of index and value up to FFh.
 * Registers: IBM VGA technical reference; misc output 3C2h, sequencer 3C4h, graphics controller 3CEh. */
    .macro  vga_prepare misc
    .globl  prepare
prepare:
    mov     edx, 0x3C2
    mov     al, \misc
    out     dx, al
    mov     edx, 0x3C4
    mov     ecx, offset sequencer
    call    program
    mov     edx, 0x3CE
    mov     ecx, offset graphics
program:                                /* pairs (index, value) to port DX */
    mov     ax, [ecx]
    cmp     al, 0xFF
    je      1f
    out     dx, al
    inc     edx
    mov     al, ah
    out     dx, al
    dec     edx
    add     ecx, 2
    jmp     program
1:  ret
    .endm
