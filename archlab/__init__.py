"""archlab: which parts of my network does the task need, and what does each cost?"""
