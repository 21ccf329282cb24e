"""One file per step in `versions/`. A step that was released is never changed."""
