"""What training needs: freezing, parameter groups, initialization, partial loading."""
