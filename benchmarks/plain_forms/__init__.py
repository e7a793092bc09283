"""Networks and training steps as their papers print them, without what makes ours faster."""
