"""Workers: threads, processes, any executor of the caller's; jobs in processes of their own."""
