"""Transfer by a shared representation of the condition, and training on a target (Cheng, Xie, Zhang, Zhang; NeurIPS 2025).

After arXiv 2502.04491: `p(x | y) = p(x | h(y))` with one `h` for all sources. Phase 1 learns `h` on many images of the sources; Phase 2
freezes it and fits a small change of one network to the few target images. `training`, `task` and `learning` take tensors and know no
pipeline.
"""
