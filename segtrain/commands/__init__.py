"""What the words after `segtrain` do: one file each. Read train.py first."""
