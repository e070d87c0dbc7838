//! Record batches: pure bytes in, values out.
