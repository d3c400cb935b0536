/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Rust's library walks the stack to print a backtrace below the message of a panic. The programs made here have no
   tables to walk by and no unwinder: the stack ends at once, the message stays. */

enum { END_OF_STACK = 5, NO_SUCH_REGISTER = 2 };

int _Unwind_Backtrace(void *callback, void *argument)
{
    (void)callback;
    (void)argument;
    return END_OF_STACK;
}

/* Never called, as no frame is ever reported. */
#ifdef __arm__
int _Unwind_VRS_Get(void *frame, int class, unsigned number, int kind, void *value)
{
    (void)frame;
    (void)class;
    (void)number;
    (void)kind;
    (void)value;
    return NO_SUCH_REGISTER;
}
#else
unsigned long _Unwind_GetIP(void *frame)
{
    (void)frame;
    return 0;
}
#endif
